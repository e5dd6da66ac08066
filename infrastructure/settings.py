"""Every setting of a village, read from VILLAGE_* environment variables, with its default."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

if TYPE_CHECKING:
    from pydantic.main import ReprArgs

PREFIX: Final = "VILLAGE_"

# Accepted because the first design named them; nothing reads them.
UNUSED: Final = ("consul_url", "redis_url", "jaeger_url", "prometheus_port", "service_name", "service_port")
# Of parts that are to come.
NOT_YET: Final = ("supported_frameworks",)

MB: Final = 1_000_000

_SECRET_IN_QUERY: Final = re.compile(r"(?i)([?&][^=&#]*(?:password|secret|token|key)[^=&#]*=)[^&#]*")

Percent = Annotated[int, Field(ge=0, le=100)]


class Settings(BaseSettings):
    """One village's settings; immutable. Secrets are `SecretStr`, so that printing them shows nothing."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    # Where the village keeps its files, and which servers it uses; no url = start an embedded server.
    home: Path = Path("./.village")
    database_url: SecretStr | None = None
    nats_url: SecretStr | None = None
    nats_port: int = Field(default=0, ge=0, le=65_535, description="of the embedded server; 0 = a free one")
    event_stream_name: str = Field(default="ai_village_events", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    blob_url: str | None = Field(
        default=None, description="s3://bucket/prefix or another object store; none = files in home"
    )
    contexts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="which part of the village runs here, by commas; none = all of it"
    )
    server_user: str | None = Field(default=None, description="account of the embedded servers when started as root")

    # The edge.
    api_host: str = "127.0.0.1"
    api_port: int = Field(default=8420, ge=0, le=65_535, description="0 = a free one, written to home/api.url")
    public_url: str | None = Field(default=None, description="what clients call the API, when behind a proxy")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics_port: int = Field(
        default=0, ge=0, le=65_500, description="of the projector's metrics, the next ones of the others; 0 = free ones"
    )
    otlp_url: str | None = Field(
        default=None, description="where traces go by OTLP/HTTP, http://host:4318/v1/traces; none = nowhere"
    )
    log_origin: str = Field(
        default="ai-village/log", pattern=r"^[!-~]{1,100}$", description="the log's name in checkpoints"
    )
    rate_window_seconds: int = Field(default=10, ge=1, le=3_600, description="of the four below")
    rate_operator: int = Field(default=10_000, ge=1, le=1_000_000, description="requests in a window")
    rate_member: int = Field(default=1_000, ge=1, le=1_000_000, description="requests in a window")
    rate_device: int = Field(default=1_000, ge=1, le=1_000_000, description="requests in a window")
    rate_anonymous: int = Field(
        default=600, ge=1, le=1_000_000, description="requests in a window from an address that proves nothing"
    )
    pool_size: int = Field(default=8, ge=1, le=100, description="connections per role and process")

    # Device registry.
    claim_expires_minutes: int = Field(default=1_440, ge=1, le=43_200)

    # Federated learning.
    max_participants_per_round: int = Field(default=20, ge=1, le=10_000)
    min_participants_per_round: int = Field(default=3, ge=1, le=10_000)
    round_timeout_minutes: int = Field(default=10, ge=1, le=1_440)
    differential_privacy_epsilon: float = Field(
        default=1.0, gt=0, le=1_000, allow_inf_nan=False, description="what a round takes of a device's privacy budget"
    )
    secure_aggregation_enabled: bool = True
    supported_frameworks: Annotated[tuple[str, ...], NoDecode] = ("pytorch", "tensorflow")
    max_model_size_mb: int = Field(default=100, ge=1, le=10_000)

    # Tokenomics.
    initial_token_supply: int = Field(default=1_000_000_000, ge=0, le=90_000_000_000, description="tokens")
    harvest_reward_rate: float = Field(default=10.0, ge=0, allow_inf_nan=False, description="tokens an hour")
    fl_participation_bonus: float = Field(default=1.5, ge=0, allow_inf_nan=False, description="multiplier")
    marketplace_fee_percent: float = Field(default=2.0, ge=0, le=100, allow_inf_nan=False)
    payment_timeout_seconds: int = Field(default=30, ge=1, le=3_600)
    retry_failed_payments: bool = True
    max_payment_retries: int = Field(default=3, ge=0, le=100)
    reward_epoch_hours: int = Field(default=24, ge=1, le=8_760)
    reward_epoch_budget_tokens: int = Field(default=100_000, ge=0, le=1_000_000_000)

    # Harvest.
    min_battery_percent: Percent = 20
    max_cpu_temp: float = Field(default=45.0, ge=-50, le=150, allow_inf_nan=False, description="degrees Celsius")
    require_charging: bool = True
    max_cpu_percent: float = Field(default=50.0, ge=0, le=100, allow_inf_nan=False)
    thermal_throttle_temp: float = Field(
        default=55.0, ge=-50, le=150, allow_inf_nan=False, description="degrees Celsius"
    )

    # Accepted and unused.
    consul_url: str = "http://localhost:8500"
    redis_url: str = "redis://localhost:6379"
    jaeger_url: str = "http://localhost:14268/api/traces"
    prometheus_port: int = 9090
    service_name: str = ""
    service_port: int = 8080

    @field_validator("contexts", "supported_frameworks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Lists are written with commas: pytorch,tensorflow."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("database_url", "nats_url", "blob_url", "server_user", "public_url", "otlp_url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    def __repr_args__(self) -> "ReprArgs":
        """As `shown`: urls of all kinds may hold a password."""
        return list(shown(self).items())

    @property
    def max_model_bytes(self) -> int:
        """Upper bound of one uploaded model or update, in bytes."""
        return self.max_model_size_mb * MB

    @property
    def epsilon_micro(self) -> int:
        """The epsilon of one participation in a round, in millionths, rounded up."""
        return math.ceil(self.differential_privacy_epsilon * 1_000_000)

    @property
    def round_timeout_ms(self) -> int:
        """How long a round waits for its updates, in milliseconds."""
        return self.round_timeout_minutes * 60_000


def warnings(environ: Mapping[str, str] | None = None) -> list[str]:
    """What in the environment has no effect: names nobody knows, kept only to be accepted, or of parts to come."""
    environ = os.environ if environ is None else environ
    found = []
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX):
            continue
        name = variable[len(PREFIX) :].lower()
        if name in UNUSED:
            found.append(f"{variable} is accepted and unused")
        elif name in NOT_YET:
            found.append(f"{variable} has no effect yet")
        elif name not in Settings.model_fields:
            found.append(f"{variable} is unknown")
    return found


def shown(settings: Settings) -> dict[str, object]:
    """Every setting by name, fit for a screen or a log: a secret that is set shows only that it is."""
    return {name: _shown(getattr(settings, name)) for name in Settings.model_fields}


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "<set>"
    if isinstance(value, str):
        return _SECRET_IN_QUERY.sub(r"\1***", re.sub(r"//[^\s?#]*@", "//***@", value))
    return str(value) if isinstance(value, Path) else value
