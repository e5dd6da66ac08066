"""`village devices`: an operator's decisions over devices."""

import getpass
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from cli.as_of import Json, past
from cli.errors import CommandFailed, told_plainly
from cli.parser import Reason, parser
from cli.parts import require_database
from infrastructure.settings import Settings

app = parser("Decide over the devices of the village.")


@app.command()
def suspend(device_id: UUID, reason: Reason) -> None:
    """Let a device take no part for a while."""
    _decide("suspend_device", device_id, reason)


@app.command()
def reinstate(device_id: UUID, reason: Reason) -> None:
    """Let a suspended device take part again."""
    _decide("reinstate_device", device_id, reason)


@app.command()
def retire(device_id: UUID, reason: Reason) -> None:
    """End a device for ever."""
    _decide("retire_device", device_id, reason)


@app.command("shadow-rule")
def shadow_rule(
    rule: Annotated[int, typer.Argument(help="The number of a rule that is written down and not live.")],
    json_output: Json = False,
) -> None:
    """Score all history under another rule of reputation, and show what would change. Nothing is recorded."""
    from domain.device_registry.reputation import RULE_VERSION
    from projections.shadow import shadow_scores

    with told_plainly(), past(None) as (connection, _):
        found = shadow_scores(connection, rule)
    if json_output:
        for one in found.scores:
            typer.echo(msgspec.json.encode(one).decode())
        return
    for one in found.differences:
        typer.echo(
            f"{one.device_id}  {one.service:<20}{one.live_bp:>6} -> {one.shadow_bp:<6}{one.evidence:>8} evidence"
        )
    typer.echo(
        f"{len(found.differences)} of {len(found.scores)} scores would change from rule {RULE_VERSION} to rule {rule}"
        f" at position {found.position}; a newcomer would have {found.newcomer_bp}."
    )


def _decide(command: str, device_id: UUID, reason: str) -> None:
    from cli.parts import parts
    from domain.kernel import Refusal, new_scope, within

    with told_plainly(), parts(require_database(Settings()), "devices") as made:
        try:
            with within(new_scope(f"operator:{getpass.getuser()}")):
                receipt = getattr(made.village.device_registry, command)(device_id=device_id, reason=reason)
        except Refusal as refusal:
            raise CommandFailed(f"{refusal.code}: {refusal}") from refusal
        typer.echo(f"Recorded at position {receipt.position}.")
