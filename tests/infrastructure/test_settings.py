"""Settings: the seed's defaults, bounds, and secrets that stay secret."""

import re
from pathlib import Path

import pydantic
import pytest

from infrastructure.settings import NOT_YET, UNUSED, Settings, shown, warnings

ROOT = Path(__file__).resolve().parents[2]

SEED = {
    "consul_url": "http://localhost:8500",
    "redis_url": "redis://localhost:6379",
    "jaeger_url": "http://localhost:14268/api/traces",
    "prometheus_port": 9090,
    "service_name": "",
    "service_port": 8080,
    "event_stream_name": "ai_village_events",
    "log_level": "INFO",
    "max_participants_per_round": 20,
    "min_participants_per_round": 3,
    "round_timeout_minutes": 10,
    "differential_privacy_epsilon": 1.0,
    "secure_aggregation_enabled": True,
    "supported_frameworks": ("pytorch", "tensorflow"),
    "max_model_size_mb": 100,
    "initial_token_supply": 1_000_000_000,
    "harvest_reward_rate": 10.0,
    "fl_participation_bonus": 1.5,
    "marketplace_fee_percent": 2.0,
    "payment_timeout_seconds": 30,
    "retry_failed_payments": True,
    "max_payment_retries": 3,
    "min_battery_percent": 20,
    "max_cpu_temp": 45.0,
    "require_charging": True,
    "max_cpu_percent": 50.0,
    "thermal_throttle_temp": 55.0,
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"VILLAGE_{name.upper()}", raising=False)


def test_every_setting_of_the_first_design_has_its_default() -> None:
    settings = Settings()
    assert {name: getattr(settings, name) for name in SEED} == SEED


def test_the_environment_overrides_and_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILLAGE_ROUND_TIMEOUT_MINUTES", "3")
    monkeypatch.setenv("VILLAGE_SUPPORTED_FRAMEWORKS", "pytorch, jax")
    settings = Settings()
    assert settings.round_timeout_ms == 180_000
    assert settings.supported_frameworks == ("pytorch", "jax")


def test_home_is_absolute_whatever_it_was_given_as(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().home == tmp_path / ".village"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_PORT", "65536"),
        ("MARKETPLACE_FEE_PERCENT", "-1"),
        ("HARVEST_REWARD_RATE", "nan"),
        ("HARVEST_REWARD_RATE", "inf"),
        ("MAX_MODEL_SIZE_MB", "many"),
        ("LOG_LEVEL", "LOUD"),
        ("EVENT_STREAM_NAME", "a stream"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"VILLAGE_{name}", value)
    with pytest.raises(pydantic.ValidationError, match=name.lower()):
        Settings()


def test_secrets_and_passwords_in_urls_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILLAGE_DATABASE_URL", "postgresql://me:sesame@db/village")
    monkeypatch.setenv("VILLAGE_NATS_URL", "nats://me:sesame@bus")
    monkeypatch.setenv("VILLAGE_OTLP_URL", "https://me:pa@ss/sesame@collector:4318/v1/traces?api_key=sesame&x=1")
    for name in ("BLOB", "PUBLIC", "CONSUL", "REDIS", "JAEGER"):
        monkeypatch.setenv(f"VILLAGE_{name}_URL", f"scheme://me:sesame@{name}/path?secret_token=sesame#part")
    settings = Settings()
    assert "sesame" not in f"{shown(settings)} {settings!r} {settings}"
    assert shown(settings)["otlp_url"] == "https://***@collector:4318/v1/traces?api_key=***&x=1"
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value().endswith("sesame@db/village")


def test_a_bad_secret_is_not_repeated_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILLAGE_API_PORT", "sesame")
    with pytest.raises(pydantic.ValidationError) as caught:
        Settings()
    assert "sesame" not in str(caught.value)


def test_unknown_and_unused_variables_are_named() -> None:
    environ = {"VILLAGE_HARVEST_REWARD_RAT": "1", "VILLAGE_CONSUL_URL": "x", "VILLAGE_HOME": "/v", "PATH": "/bin"}
    assert warnings(environ) == ["VILLAGE_CONSUL_URL is accepted and unused", "VILLAGE_HARVEST_REWARD_RAT is unknown"]


def test_a_variable_of_a_part_that_is_to_come_is_named() -> None:
    assert warnings({"VILLAGE_SUPPORTED_FRAMEWORKS": "jax"}) == ["VILLAGE_SUPPORTED_FRAMEWORKS has no effect yet"]


def test_every_other_setting_is_read_by_something() -> None:
    sources = [path for part in ("api", "cli", "workers", "infrastructure") for path in (ROOT / part).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    claimed = Settings.model_fields.keys() - {*UNUSED, *NOT_YET}
    assert [name for name in sorted(claimed) if not re.search(rf"\.{name}\b", text)] == []
    assert [name for name in (*UNUSED, *NOT_YET) if re.search(rf"settings\.{name}\b", text)] == []
