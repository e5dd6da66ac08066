"""What is one owner's, as another member and another's device meet it: by every query, feed and command there is."""

from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pytest
from fastapi.routing import iter_route_contexts
from graphql import GraphQLField, GraphQLObjectType

from api.edge.gate import GatedRoute
from api.edge.principals import Role
from tests.api.edge.socket_client import socket
from tests.api.estate import LIMITS, Estate, estate
from tests.api.stall import later
from tests.trading import HOUR

__all__ = ["estate"]

OF_ALL = {"offerings", "offering", "supply", "epochs"}
"""What everybody may see of everybody."""
OF_NO_OWNER = {"supply", "epochs"}
OF_OPERATORS = {
    "checkpoints", "consistencyProof", "deadLetters", "dealings", "erasedSubject", "erasedSubjects", "events",
    "explain", "health", "incident", "incidents", "inclusionProof", "projections", "saga", "sagas", "services",
    "stream",
}  # fmt: skip
FEED_REFUSALS = {"forbidden", "contract_unknown", "harvest_session_unknown", "training_session_unknown"}
HASH = "a" * 64
STRANGERS: tuple[Role, ...] = ("member", "device")


def fields(kind: GraphQLObjectType | None) -> list[tuple[str, GraphQLField]]:
    assert kind is not None
    return sorted(kind.fields.items())


def counts(data: Any) -> list[int]:
    """Every `totalCount` in an answer."""
    if isinstance(data, dict):
        own = [data["totalCount"]] if "totalCount" in data else []
        return own + [number for value in data.values() for number in counts(value)]
    return [number for value in data for number in counts(value)] if isinstance(data, list) else []


def test_no_query_shows_a_stranger_what_is_another_owner_s(estate: Estate) -> None:
    seen, forbidden = set(), set()
    for name, field in fields(estate.schema().query_type):
        for past in (False, True) if "asOf" in field.args else (False,):
            query, variables = estate.asking(name, field, past=past)
            if estate.shown(estate.ask(f"query {query}", "operator", variables).get("data")):
                seen.add(name)
            for role in STRANGERS:
                answer = estate.ask(f"query {query}", role, variables)
                codes = {error["extensions"]["code"] for error in answer.get("errors", ())}
                assert codes <= {"forbidden"}, (name, role, answer)
                if codes:
                    forbidden.add(name)
                elif name not in OF_ALL:
                    assert estate.shown(answer["data"]) == set(), (name, role, past, answer)
                    assert sum(counts(answer["data"])) <= 1, (name, role, past, "more than its own is counted")
    assert forbidden >= OF_OPERATORS
    hidden = {name for name, _ in fields(estate.schema().query_type)} - OF_OPERATORS - OF_NO_OWNER - seen
    assert hidden == set(), "what an operator does not see proves nothing"


def test_no_feed_tells_a_stranger_what_is_another_owner_s(estate: Estate) -> None:
    for name, field in fields(estate.schema().subscription_type):
        query, variables = estate.asking(name, field)
        headers = estate.as_whom("member")["headers"]
        with socket(estate.url, {"token": headers["Authorization"].removeprefix("Bearer ")}) as client:
            client.send(id="1", type="subscribe", payload={"query": f"subscription {query}", "variables": variables})
            (error,) = client.receive()["payload"]["errors"]
        assert error["extensions"]["code"] in FEED_REFUSALS, (name, error)


def commands(estate: Estate, role: Role) -> set[str]:
    """The commands that this role may give at all."""
    routes = [route.original_route for route in iter_route_contexts(cast(Any, estate.stall.office.client.app).routes)]
    own = [route for route in routes if isinstance(route, GatedRoute) and "POST" in (route.methods or ())]
    return {route.path for route in own if role in route.access.roles} - {"/graphql"}


def aimed(things: dict[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every command of members and of devices, aimed at what is somebody else's."""
    contract, owner, reason = (
        {"contract_id": things["contract"]},
        {"owner_id": things["customer"]},
        {"reason": "a_drill"},
    )
    session, device = {"session_id": things["harvest"]}, {"device_id": things["device"]}
    budget = {"subject_id": things["provider"], "purpose": "training"}
    sample = {"sequence": 1, "sampled_at": datetime.now(UTC).isoformat()}
    wish = {
        "service_type": "compute_burst", "units": 1, "duration_ms": 1_000, "deadline_at": later(HOUR),
        "max_price_grains": "1000000", **owner,
    }  # fmt: skip
    resources = {"ram_mb": 1, "cpu_cores": 1, "compute_score": 1}
    sla = {"uptime_bp": 0, "p95_ms": 500, "max_interrupts_per_h": 2, "window_ms": 600_000}
    offer = {
        "offering_id": str(uuid4()), **device, "service_type": "compute_burst", "resources": resources,
        "region": "eu-west", "capacity": 1, "price_grains_per_hour": "36", "sla": sla, "valid_until": later(HOUR),
    }  # fmt: skip
    member: dict[str, dict[str, Any]] = {
        "device_registry/issue_claim": owner,
        "device_registry/retire_device": device | reason,
        "federated_learning/abandon_training": {"session_id": things["training"]},
        "federated_learning/pause_training": {"session_id": things["training"]},
        "federated_learning/resume_training": {"session_id": things["training"]},
        "harvest/request_stop": session,
        "harvest/set_harvest_policy": device | {"policy": {}},
        "marketplace/allocate_compute_burst": {"burst_id": str(uuid4()), "nodes": 1, **wish},
        "marketplace/breach_contract": contract | reason,
        "marketplace/cancel_contract": contract | reason,
        "marketplace/cancel_job": {"job_id": things["job"]},
        "marketplace/complete_contract": contract,
        "marketplace/create_service_offering": offer,
        "marketplace/dispute_contract": contract | reason,
        "marketplace/match_service_request": {"request_id": str(uuid4()), **wish},
        "marketplace/propose_contract": {
            "contract_id": str(uuid4()), "offering_id": things["offering"], "units": 1, "duration_ms": 1,
            "deadline_at": later(HOUR), "max_price_grains": "1000", "request_id": things["request"],
        },
        "marketplace/report_headroom": contract | {"headroom_ms": 1},
        "marketplace/report_usage": contract | {"cumulative_ms": 1},
        "marketplace/submit_job": contract | {
            "job_id": str(uuid4()), "job_type": "hash_search", "limits": LIMITS,
            "parameters": {"seed": 1, "start": 0, "count": 1, "difficulty_bits": 1},
        },
        "marketplace/withdraw_offering": {"offering_id": things["offering"]},
        "privacy/exhaust_budget": budget,
        "privacy/grant_budget": budget | {"epsilon_micro": 5_000, "delta_pico": 10},
        "tokenomics/capture_hold": {"hold_id": things["hold"], "to_owner_id": things["provider"], "grains": "1"},
        "tokenomics/expire_hold": {"hold_id": things["hold"]},
        "tokenomics/hold_funds": {
            "hold_id": str(uuid4()), "grains": "1", "expires_at": later(HOUR), "purpose": "a_job", **owner
        },
        "tokenomics/open_wallet": owner,
        "tokenomics/process_payment": {
            "to_owner_id": things["provider"], "grains": "1", "from_owner_id": things["customer"]
        },
        "tokenomics/verify_payment_capability": {"grains": "1", **owner},
        "tokenomics/void_hold": {"hold_id": things["hold"]},
    }  # fmt: skip
    strange: dict[str, dict[str, Any]] = {
        "harvest/answer_audit": session | {"answer": HASH},
        "harvest/send_samples": session | {"samples": [sample]},
        "harvest/start_harvest_session": {"sensors": []},
        "harvest/stop_harvest_session": session,
        "marketplace/end_job": {"job_id": things["job"], "cumulative_ms": 1, "outcome": "failed", "wall_ms": 1},
        "marketplace/report_job_usage": {"job_id": things["job"], "cumulative_ms": 1},
    }
    return {"member": member, "device": strange}


OF_THEIR_OWN = {
    "member": {"tokenomics/calculate_rewards", "federated_learning/start_training"},
    "device": {
        "tokenomics/calculate_rewards", "device_registry/heartbeat", "device_registry/rotate_key",
        "device_registry/update_capabilities", "federated_learning/submit_update",
    },
}  # fmt: skip
"""Commands that name nothing of anybody, or nothing but what the caller was asked to work on."""


@pytest.mark.parametrize("role", STRANGERS)
def test_no_command_reaches_what_is_another_owner_s(estate: Estate, role: Role) -> None:
    bodies, allowed = aimed(estate.things)[role], commands(estate, role)
    assert {f"/v1/{name}" for name in (*bodies, *OF_THEIR_OWN[role])} == allowed
    head = estate.stall.office.log.head()
    for name, body in bodies.items():
        answer = estate.post(f"/v1/{name}", body, role)
        assert answer.status_code in (403, 404) or answer.json()["code"] == "not_of_receipt", (name, answer.text)
        assert estate.stall.office.log.head() == head, name
    for path in commands(estate, "operator") - allowed:
        assert estate.post(path, {}, role).json()["code"] == "forbidden", path
