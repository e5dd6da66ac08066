"""What a Grafana and a Prometheus are given: alerts that alert, panels that show, and only of metrics that exist."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

import cli.ports  # noqa: F401  (the metrics of a process exist once its parts are imported)
import workers.saga_runner  # noqa: F401
from infrastructure import operations
from infrastructure.metrics import REGISTRY
from infrastructure.operations import OTHER, BusinessMetric, record_business_metric, record_error, tracked
from tests.needs import needs_promtool

from .conftest import Edge

OPS = Path(__file__).resolve().parents[3] / "ops"
ALERTS = OPS / "prometheus" / "alerts.yml"
DASHBOARD = OPS / "grafana" / "village.json"
NAME = re.compile(r"\b(?:village|fl|harvest|process)_[a-z_]+\b")


def exposed(edge: Edge) -> set[str]:
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", edge.client.get("/metrics").text, re.MULTILINE):
        names.add(name)
        if kind == "histogram":
            names |= {name + end for end in ("_bucket", "_sum", "_count")}
    return names


def asked() -> set[str]:
    rules = [line for line in ALERTS.read_text().splitlines() if not line.startswith("#")]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    return {name for text in (*rules, *shown) for name in NAME.findall(text)}


def test_every_metric_that_alerts_and_panels_ask_for_exists(edge: Edge) -> None:
    wanted = asked()
    assert {"harvest_stops_total", "village_contexts_left_out", "village_supply_drift_grains"} <= wanted
    assert wanted <= exposed(edge)


def test_the_metrics_of_the_seed_exist_for_every_service(edge: Edge) -> None:
    found = exposed(edge)
    for service in operations.SERVICES:
        for name in ("request_duration_seconds", "requests_total", "active_connections"):
            assert f"{service}_{name}" in found
    assert {
        "fl_active_training_sessions",
        "fl_training_round_duration_seconds",
        "fl_participant_selection_seconds",
        "village_supply_drift_grains",
    } <= found


def test_a_request_is_counted_for_its_service_by_route_and_not_by_path(edge: Edge) -> None:
    before = edge.client.get("/metrics").text
    edge.client.post("/v1/tokenomics/nothing-of-that-name", json={})
    after = edge.client.get("/metrics").text
    assert "nothing-of-that-name" not in after
    assert "tokenomics_active_connections 0.0" in before
    assert "tokenomics_active_connections 0.0" in after
    assert "village_supply_drift_grains 0.0" in after


def test_what_is_tracked_is_counted_with_its_time_and_its_failure() -> None:
    with pytest.raises(ZeroDivisionError), tracked("tests", "divide"):
        _ = 1 / 0
    text = generate_latest(REGISTRY).decode()
    assert 'village_operation_duration_seconds_count{operation="divide",service="tests"} 1.0' in text
    assert 'village_operation_errors_total{error="ZeroDivisionError",operation="divide",service="tests"} 1.0' in text


def test_labels_are_bounded_and_the_rest_is_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MAX_LABELS", 2)
    monkeypatch.setattr(operations, "_kept", {})
    for number in range(5):
        record_error("tests", f"operation {number}", "Error")
        record_business_metric(BusinessMetric("tests", f"figure {number}", number))
    text = generate_latest(REGISTRY).decode()
    assert f'error="{OTHER}",operation="{OTHER}",service="{OTHER}"}} 3.0' in text
    assert "operation 2" not in text
    assert f'village_business{{name="{OTHER}",service="{OTHER}"}} 4.0' in text


@needs_promtool
@pytest.mark.parametrize("words", [("check", "rules", str(ALERTS)), ("test", "rules", "alerts_test.yml")])
def test_promtool_finds_the_alerts_right(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *words], cwd=ALERTS.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
