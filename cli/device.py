"""`village device`: run volunteer devices on this machine."""

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog
import typer

from cli.parser import parser
from domain.device_registry.evidence import METHODS
from domain.harvest.policy import PolicyInvalid, checked
from domain.harvest.sample import SAMPLE_EVERY
from infrastructure.http_signatures import DeviceAuth
from workers.device_agent.agent import AgentSettings
from workers.device_agent.benchmarks import measure_evidence
from workers.device_agent.client import ApiRefused, ApiUnavailable, VillageClient, open_http
from workers.device_agent.data import DataUnavailable
from workers.device_agent.enrolment import Applicant, rotate_key
from workers.device_agent.harvest import SEND_EVERY_S, HarvestOptions
from workers.device_agent.host import HostedDevice, run_devices
from workers.device_agent.sensors import TraceSensors
from workers.device_agent.state import DeviceState, StateInUse

app = parser("Run a volunteer device.")

DEVICE_FILE = "device.json"

Api = Annotated[str, typer.Option("--api", help="Address of the village, for example https://village.example.")]
Heartbeat = Annotated[float, typer.Option(min=0.1, max=300, help="Seconds between heartbeats.")]
Jobs = Annotated[bool, typer.Option("--jobs", help="Also do the jobs of contracts over this device.")]
PlainHttp = Annotated[bool, typer.Option("--plain-http", help="Allow http to another machine (a trusted network).")]
Json = Annotated[bool, typer.Option("--json", help="Log one JSON object a line.")]


class Lending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`harvest` of a device.json: the policy's limits that are said, a trace to play (a file beside it), the pace."""

    policy: dict[str, Any] = {}
    sensors: str | None = None
    metered: bool = False
    sample_s: Annotated[float, msgspec.Meta(ge=0.1, le=30)] = SAMPLE_EVERY.total_seconds()
    send_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = SEND_EVERY_S

    def options(self, folder: Path) -> HarvestOptions:
        """Raises typer.BadParameter for a policy or a trace that does not hold."""
        trace = None if self.sensors is None else folder / self.sensors
        return _checked(HarvestOptions(self.policy, trace, self.metered, self.sample_s, self.send_s))


class DeviceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`device.json` in a device's folder: where its data is, its claim until it is enrolled, and how it is lent.

    Without data it does not train.
    """

    data: str | None = None
    claim: str | None = None
    device_type: str = "desktop"
    region: str = "local"
    harvest: Lending | None = None


@app.command()
def run(
    api: Api,
    data: Annotated[str, typer.Option(help="Folder with samples.safetensors, or mnist:INDEX/COUNT.")],
    state: Annotated[Path, typer.Option(help="Folder of the device's keys and journal; keep it.")],
    claim: Annotated[
        str | None, typer.Option(help="Claim code from the village's operator; - reads it from stdin.")
    ] = None,
    device_type: Annotated[str, typer.Option(help="Kind of device, for example laptop.")] = "desktop",
    region: Annotated[str, typer.Option(help="Where it is, for example eu-west.")] = "local",
    harvest: Annotated[
        bool, typer.Option("--harvest", help="Lend this device, and train only while it is lent.")
    ] = False,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A limit of the harvest, NAME=VALUE; repeat it. See the device owner's guide."),
    ] = None,
    sensors: Annotated[
        Path | None, typer.Option(help="Play this trace (CSV) instead of measuring, to see what a policy does.")
    ] = None,
    metered: Annotated[bool, typer.Option("--metered", help="This device's traffic is paid by volume.")] = False,
    heartbeat: Heartbeat = 10.0,
    jobs: Jobs = False,
    plain_http: PlainHttp = False,
    json: Json = False,
) -> None:
    """Enrol this device (once) and let it take part in training until it is stopped."""
    code = sys.stdin.readline().strip() if claim == "-" else claim
    applicant = Applicant(code, device_type, region) if code else None
    lends = _harvest(policy or [], sensors, metered) if harvest else None
    _run([HostedDevice(state, data, applicant, lends)], AgentSettings(api, heartbeat, jobs=jobs), plain_http, json)


@app.command()
def host(
    api: Api,
    folder: Annotated[Path, typer.Argument(help="Folder whose subfolders each have a device.json.")],
    heartbeat: Heartbeat = 10.0,
    jobs: Jobs = False,
    plain_http: PlainHttp = False,
    json: Json = False,
) -> None:
    """Run every device of a folder in this one process."""
    try:
        devices = [_hosted(file) for file in sorted(folder.glob(f"*/{DEVICE_FILE}"))]
    except (OSError, msgspec.DecodeError) as error:
        raise typer.BadParameter(f"a {DEVICE_FILE} cannot be read: {error}") from error
    _run(devices, AgentSettings(api, heartbeat, jobs=jobs), plain_http, json)


@app.command()
def measure(
    folder: Annotated[Path, typer.Argument(help="A folder on the disk to measure; nothing is left in it.")],
) -> None:
    """Measure this machine and show the evidence that a device of it would sign; nothing is told to anybody."""
    _, evidence = measure_evidence(folder)
    for one in evidence.measurements:
        typer.echo(f"{one.method:<12} {one.version} {one.value:>9,} {METHODS[one.method, one.version].unit}")
    typer.echo(f"{evidence.cpu_cores} cores, {evidence.ram_mb:,} MiB of memory")


@app.command("rotate-key")
def rotate_key_command(
    api: Api,
    state: Annotated[Path, typer.Option(help="Folder of the device's keys; the device must not be running.")],
    plain_http: PlainHttp = False,
) -> None:
    """Give this device a new signing key; the village refuses the old one from then on."""
    try:
        asyncio.run(_rotate(api, state, plain_http))
    except (ValueError, StateInUse, ApiRefused, ApiUnavailable) as error:
        typer.echo(f"village device: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo("The device has a new key.")


def _harvest(policy: Sequence[str], trace: Path | None, metered: bool) -> HarvestOptions:
    given: dict[str, object] = {}
    for word in policy:
        name, _, value = word.partition("=")
        try:
            given[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            given[name] = value
    return _checked(HarvestOptions(given, trace, metered))


def _checked(options: HarvestOptions) -> HarvestOptions:
    try:
        checked(options.policy)
        if options.trace is not None:
            TraceSensors(options.trace)
    except (ValueError, PolicyInvalid) as error:
        raise typer.BadParameter(str(error)) from error
    return options


async def _rotate(api: str, folder: Path, plain_http: bool) -> None:
    async with open_http(api, plain_http=plain_http) as http:
        with closing(DeviceState(folder)) as state:
            if (identity := state.identity) is None:
                raise ValueError(f"{folder} holds no enrolled device")
            keys = (state.signing_key, state.next_signing_key())
            await rotate_key(
                state, identity, *(VillageClient(http, DeviceAuth(identity.device_id, key)) for key in keys)
            )


def _hosted(file: Path) -> HostedDevice:
    known = msgspec.json.decode(file.read_bytes(), type=DeviceFile)
    applicant = Applicant(known.claim, known.device_type, known.region) if known.claim else None
    lends = known.harvest.options(file.parent) if known.harvest else None
    return HostedDevice(file.parent, known.data, applicant, lends)


def _run(devices: Sequence[HostedDevice], settings: AgentSettings, plain_http: bool, json: bool) -> None:
    configure_logging(json)
    try:
        failed = run_devices(devices, settings, plain_http=plain_http)
    except (ValueError, DataUnavailable, StateInUse) as error:
        typer.echo(f"village device: {error}", err=True)
        raise typer.Exit(2) from error
    if failed:
        raise typer.Exit(1)


def configure_logging(json: bool) -> None:
    """Log to standard error: lines for people, or one JSON object a line."""
    last = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
