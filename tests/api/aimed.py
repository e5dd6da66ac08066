"""Every command of members and of devices, aimed at what is somebody else's."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tests.api.estate import LIMITS
from tests.api.stall import later
from tests.trading import HOUR

Bodies = dict[str, dict[str, Any]]
"""The body of each command."""

HASH = "a" * 64
REASON = {"reason": "a_drill"}

OF_THEIR_OWN = {
    "member": {"tokenomics/calculate_rewards", "federated_learning/start_training"},
    "device": {
        "tokenomics/calculate_rewards", "device_registry/heartbeat", "device_registry/rotate_key",
        "device_registry/update_capabilities", "federated_learning/submit_update",
    },
}  # fmt: skip
"""Commands that name nothing of anybody, or nothing but what the caller was asked to work on."""


def aimed(things: dict[str, str]) -> dict[str, Bodies]:
    """Every command of members and of devices, aimed at things of others."""
    member = _devices(things) | _training(things) | _market(things) | _contracts(things) | _money(things)
    return {"member": member, "device": _by_devices(things)}


def _devices(things: dict[str, str]) -> Bodies:
    device, budget = {"device_id": things["device"]}, {"subject_id": things["provider"], "purpose": "training"}
    return {
        "device_registry/issue_claim": {"owner_id": things["customer"]},
        "device_registry/retire_device": device | REASON,
        "harvest/request_stop": {"session_id": things["harvest"]},
        "harvest/set_harvest_policy": device | {"policy": {}},
        "privacy/exhaust_budget": budget,
        "privacy/grant_budget": budget | {"epsilon_micro": 5_000, "delta_pico": 10},
    }


def _training(things: dict[str, str]) -> Bodies:
    training = {"session_id": things["training"]}
    return {
        "federated_learning/abandon_training": training,
        "federated_learning/pause_training": training,
        "federated_learning/resume_training": training,
    }


def _market(things: dict[str, str]) -> Bodies:
    """What is offered, looked for and bought."""
    wish = {
        "service_type": "compute_burst", "units": 1, "duration_ms": 1_000, "deadline_at": later(HOUR),
        "max_price_grains": "1000000", "owner_id": things["customer"],
    }  # fmt: skip
    return {
        "marketplace/allocate_compute_burst": {"burst_id": str(uuid4()), "nodes": 1, **wish},
        "marketplace/create_service_offering": {
            "offering_id": str(uuid4()), "device_id": things["device"], "service_type": "compute_burst",
            "resources": {"ram_mb": 1, "cpu_cores": 1, "compute_score": 1}, "region": "eu-west", "capacity": 1,
            "price_grains_per_hour": "36", "valid_until": later(HOUR),
            "sla": {"uptime_bp": 0, "p95_ms": 500, "max_interrupts_per_h": 2, "window_ms": 600_000},
        },
        "marketplace/match_service_request": {"request_id": str(uuid4()), **wish},
        "marketplace/propose_contract": {
            "contract_id": str(uuid4()), "offering_id": things["offering"], "units": 1, "duration_ms": 1,
            "deadline_at": later(HOUR), "max_price_grains": "1000", "request_id": things["request"],
        },
        "marketplace/withdraw_offering": {"offering_id": things["offering"]},
    }  # fmt: skip


def _contracts(things: dict[str, str]) -> Bodies:
    contract = {"contract_id": things["contract"]}
    return {
        "marketplace/breach_contract": contract | REASON,
        "marketplace/cancel_contract": contract | REASON,
        "marketplace/cancel_job": {"job_id": things["job"]},
        "marketplace/complete_contract": contract,
        "marketplace/dispute_contract": contract | REASON,
        "marketplace/report_headroom": contract | {"headroom_ms": 1},
        "marketplace/report_usage": contract | {"cumulative_ms": 1},
        "marketplace/submit_job": contract | {
            "job_id": str(uuid4()), "job_type": "hash_search", "limits": LIMITS,
            "parameters": {"seed": 1, "start": 0, "count": 1, "difficulty_bits": 1},
        },
    }  # fmt: skip


def _money(things: dict[str, str]) -> Bodies:
    owner, hold = {"owner_id": things["customer"]}, {"hold_id": things["hold"]}
    return {
        "tokenomics/capture_hold": hold | {"to_owner_id": things["provider"], "grains": "1"},
        "tokenomics/expire_hold": hold,
        "tokenomics/hold_funds": owner | {
            "hold_id": str(uuid4()), "grains": "1", "expires_at": later(HOUR), "purpose": "a_job"
        },
        "tokenomics/open_wallet": owner,
        "tokenomics/process_payment": {
            "to_owner_id": things["provider"], "grains": "1", "from_owner_id": things["customer"]
        },
        "tokenomics/verify_payment_capability": owner | {"grains": "1"},
        "tokenomics/void_hold": hold,
    }  # fmt: skip


def _by_devices(things: dict[str, str]) -> Bodies:
    session, job = {"session_id": things["harvest"]}, {"job_id": things["job"], "cumulative_ms": 1}
    sample = {"sequence": 1, "sampled_at": datetime.now(UTC).isoformat()}
    return {
        "harvest/answer_audit": session | {"answer": HASH},
        "harvest/send_samples": session | {"samples": [sample]},
        "harvest/start_harvest_session": {"sensors": []},
        "harvest/stop_harvest_session": session,
        "marketplace/end_job": job | {"outcome": "failed", "wall_ms": 1},
        "marketplace/report_job_usage": job,
    }
