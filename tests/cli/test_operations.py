"""What the operator's guide says of read models, sagas, audits and backups, typed at a village that runs."""

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

import domain.topics  # noqa: F401  (every stored topic must resolve)
from domain.audit.checkpoint import CheckpointInvalid, Verifier, verify
from domain.audit.merkle import verify_consistency
from domain.device_registry.service import DeviceRegistryService
from domain.kernel import new_scope, within
from domain.sagas.process import COMPENSATED, RUNNING
from domain.tokenomics.accounts import wallet_id_of
from domain.tokenomics.pricing import Activity
from domain.tokenomics.service import TokenomicsService
from domain.tokenomics.transfer import transfer_id_of
from infrastructure.database import Database
from infrastructure.event_store import open_event_log
from infrastructure.subject_keys import KeyEncryptionKeys, SubjectKeyTable
from tests.cli.operators import ELSEWHERE, Operator, filled, guided
from tests.cli.parking import PRICE, parked_payment
from tests.cli.villages import environment, eventually, running
from tests.devices import enrol

pytestmark = pytest.mark.slow

GENESIS_ID = transfer_id_of("genesis")


@pytest.fixture(scope="module")
def operator(short_home: Path) -> Iterator[Operator]:
    home = short_home / "operations"
    with running(environment(home)) as up:
        operator = Operator(home, up)
        assert eventually(lambda: all(row["lag"] == 0 and row["worker"] for row in operator.projections().values()), 60)
        yield operator


def test_the_list_names_every_read_model_with_its_lag(operator: Operator) -> None:
    assert {"wallets", "accounts", "devices", "training_rounds", "sagas"} <= operator.projections().keys()
    assert "wallets" in operator.types("projections", "list")


def test_a_rebuild_is_followed_to_its_end(operator: Operator) -> None:
    assert "obeys within a second" in operator.types("projections", "rebuild", "accounts", "--reason", "a drill")
    assert "rebuild:accounts" not in operator.projections()
    assert operator.asks("audit", "replay")["differences"] == []


def test_a_read_model_is_paused_and_resumed(operator: Operator) -> None:
    operator.types("projections", "pause", "epochs", "--reason", "a drill")
    assert eventually(lambda: operator.projections()["epochs"]["paused"])
    assert "projection_already_paused" in operator.types("projections", "pause", "epochs", "--reason", "again", code=1)
    operator.types("projections", "resume", "epochs", "--reason", "the drill is over")
    assert eventually(lambda: not operator.projections()["epochs"]["paused"])
    pause = ("projections", "pause", "projection_controls", "--reason", "a slip")
    assert "controls_not_pausable" in operator.types(*pause, code=1)


def test_a_read_model_nobody_has_is_named(operator: Operator) -> None:
    assert "projection_unknown" in operator.types("projections", "pause", "nothing", "--reason", "?", code=1)
    assert "No read model is called" in operator.types("projections", "letters", "nothing", code=1)


def test_dead_letters_are_shown_and_skipped_by_a_reasoned_command(operator: Operator) -> None:
    assert operator.types("projections", "letters", "wallets") == "None.\n"
    ((at,),) = operator.sql(f"SELECT position FROM log.events WHERE stream = '{GENESIS_ID}'")
    key = f'"{uuid4()}"'
    operator.set_aside("transfers", key, at)
    assert operator.types("projections", "letters", "transfers") == f"fact {at} of row {key}: no\n"
    skip = ("projections", "skip", "transfers", key)
    assert "say why" in operator.types(*skip, str(at), "--reason", " ", code=2)
    assert "letter_unknown" in operator.types(*skip, "999999", "--reason", "a slip", code=1)
    assert "letter_unknown" in operator.types("projections", "retry", "wallets", key, "--reason", "a slip", code=1)
    operator.types(*skip, str(at), "--reason", "a drill")
    assert "letter_already_skipped" in operator.types(*skip, str(at), "--reason", "again", code=1)
    operator.sql("DELETE FROM engine.dead_letters")
    assert operator.asks("audit", "replay")["differences"] == []


def test_sagas_are_listed_and_only_parked_processes_resolved(operator: Operator) -> None:
    assert operator.asks("sagas", "list") == []
    assert "parked" in operator.types("sagas", "list", "--state", "nonsense", code=2)
    assert "There is no saga" in operator.types("sagas", "show", "1" * 32, code=1)
    assert "aggregate_not_found" in operator.types(
        "sagas", "resolve", str(GENESIS_ID), "retry", "--reason", "a drill", code=1
    )


def test_a_parked_payment_is_tried_again_over_http_and_taken_back_on_the_command_line(operator: Operator) -> None:
    assert operator.up is not None
    with parked_payment(operator.url, operator.home) as payment:
        assert payment.held == PRICE
        assert eventually(lambda: len(operator.asks("sagas", "list", "--state", "parked")) == 1)
        token = operator.types("token", "issue", "--role", "operator", "--subject", "ada").strip()
        answer = httpx2.post(
            f"{operator.up.url}/v1/sagas/resolve_process",
            json={"process_id": str(payment.process_id), "action": "retry", "reason": "the work goes on"},
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "retry"},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        assert eventually(lambda: payment.status == RUNNING)
        resolve = ("sagas", "resolve", str(payment.process_id), "compensate", "--reason", "nobody works")
        assert "process_not_parked" in operator.types(*resolve, code=1)
    with parked_payment(operator.url, operator.home) as payment:
        operator.types("sagas", "resolve", str(payment.process_id), "compensate", "--reason", "nobody works")
        assert eventually(lambda: payment.status == COMPENSATED)
        assert payment.held == 0
        shown = operator.asks("sagas", "show", str(payment.process_id))["steps"]
        assert operator.asks("sagas", "show", str(payment.process_id))["waits_for"] == []
        (resolved,) = [step for step in shown if step["step"] == "Resolved"]
        assert (resolved["facts"]["action"], resolved["facts"]["reason"]) == ("compensate", "nobody works")


def test_every_process_says_on_the_bus_where_it_runs(operator: Operator) -> None:
    everybody = {"api", "projector", "saga-runner", "aggregator", "clock"}
    assert eventually(lambda: {one["service"] for one in operator.asks("services")} == everybody, 60)
    assert all(one["pid"] and one["url"].startswith("http://127.0.0.1:") for one in operator.asks("services"))
    assert "aggregator" in operator.types("services")


def test_what_is_wrong_is_an_incident_until_it_is_mended(operator: Operator) -> None:
    def standing() -> list[Any]:
        return [
            one
            for one in operator.asks("incidents", "list")
            if (one["rule"], one["subject"]) == ("dead_letters", "epochs")
        ]

    operator.sql(
        "INSERT INTO engine.dead_letters (cursor, position, key, poison, error, traceback)"
        " VALUES ('epochs', 1, '999999', true, 'no', '')"
    )
    assert eventually(lambda: len(standing()) == 1, 60)
    (incident,) = standing()
    assert (incident["subject"], incident["state"]) == ("epochs", "opened")
    assert "Recorded" in operator.types("incidents", "ack", incident["incident_id"], "--note", "ada looks")
    again = operator.types("incidents", "ack", incident["incident_id"], "--note", "bob looks", code=1)
    assert "incident_already_acknowledged" in again
    operator.sql("DELETE FROM engine.dead_letters WHERE cursor = 'epochs' AND key = '999999'")
    assert eventually(lambda: standing() == [], 60)
    assert "dead_letters of epochs" in operator.types("incidents", "list", "--state", "all")
    assert "incident_resolved" in operator.types(
        "incidents", "resolve", incident["incident_id"], "--reason", "again", code=1
    )


def test_a_log_is_verified_with_keys_kept_elsewhere(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "verifiers").write_text(operator.types("audit", "keys"))
    assert eventually(lambda: operator.asks("audit", "verify")["sealed"] > 0)
    assert "Honest" in operator.types("audit", "verify", "--verifiers", str(tmp_path / "verifiers"))


def test_the_genesis_is_explained_and_proved(operator: Operator) -> None:
    told = operator.types("audit", "explain", str(GENESIS_ID))
    assert "tokenomics.Transfer.Posted" in told
    assert eventually(lambda: "sealed" in operator.types("audit", "explain", str(GENESIS_ID)))
    assert json.loads(operator.types("audit", "prove", "1"))["leaf"] == 0
    assert "Nothing in the log has the id" in operator.types("audit", "explain", "0" * 32, code=1)


def test_checkpoints_are_kept_elsewhere_and_the_log_is_proved_to_have_only_grown(
    operator: Operator, tmp_path: Path
) -> None:
    kept, trusted = tmp_path / "checkpoint", [Verifier.parse(operator.types("audit", "keys"))]
    assert eventually(lambda: operator.asks("audit", "verify")["sealed"] > 0)
    kept.write_text(operator.types("audit", "checkpoint"))
    old = verify(kept.read_text(), trusted)
    operator.grow()
    assert eventually(lambda: verify(operator.types("audit", "checkpoint"), trusted).size > old.size)
    new = verify(operator.types("audit", "checkpoint"), trusted)
    growth = json.loads(operator.types("audit", "consistency", str(old.size), str(new.size)))
    verify_consistency(old.size, new.size, old.root, new.root, [base64.b64decode(one) for one in growth["path"]])
    assert "sizes_out_of_order" in operator.types("audit", "consistency", str(new.size + 1), str(new.size), code=1)
    assert "No checkpoint has the size" in operator.types("audit", "consistency", "1", "999999", code=1)
    assert operator.types("audit", "checkpoint", "--size", str(old.size)) == kept.read_text()
    assert "Honest" in operator.types("audit", "verify", "--checkpoint", str(kept))
    kept.write_text(kept.read_text().replace(f"\n{old.size}\n", f"\n{old.size + 1}\n"))
    assert "signature" in operator.types("audit", "verify", "--checkpoint", str(kept), code=1)


def test_the_village_seals_with_the_key_that_was_rotated_in(operator: Operator) -> None:
    *_, newest = operator.types("audit", "keys", "--rotate").splitlines()
    operator.grow()

    def signed_by_it() -> bool:
        try:
            return verify(operator.types("audit", "checkpoint"), [Verifier.parse(newest)]).size > 0
        except CheckpointInvalid:
            return False

    assert eventually(signed_by_it)
    assert "Honest" in operator.types("audit", "verify")


def test_read_models_are_replayed_to_a_past_position(operator: Operator) -> None:
    counts = json.loads(operator.types("audit", "replay", "--until", "1", "--json"))
    assert counts["devices"] == 0
    assert "position_ahead" in operator.types("audit", "replay", "--until", "999999", code=1)
    assert operator.asks("audit", "replay", "--until", "2", "--diff")["differences"] == []


def test_what_closed_streams_say_is_archived_and_read_on(operator: Operator) -> None:
    operator.grow()
    assert eventually(lambda: operator.asks("db", "archive", "--older-than", "0", "--dry-run")["facts"] > 0)
    assert operator.asks("db", "archive")["facts"] == 0, "nothing is old"
    assert operator.asks("db", "archive", "--older-than", "0")["facts"] > 0
    assert "Honest" in operator.types("audit", "verify")
    assert operator.asks("audit", "replay")["differences"] == []
    assert "legs" in operator.types("audit", "explain", str(GENESIS_ID))
    (file, *_) = (operator.home / "archive").glob("??/*")
    kept = file.rename(file.with_name("kept"))
    assert "The first lie is at position" in operator.types("audit", "verify", code=1)
    assert file.name in operator.types("audit", "explain", str(GENESIS_ID), code=1)
    kept.rename(file)
    assert "Honest" in operator.types("audit", "verify")


def test_a_read_model_is_shown_as_it_was_at_a_position_or_a_time(operator: Operator) -> None:
    (at, posted_at) = operator.sql(
        "SELECT position, recorded_at FROM log.events WHERE topic = 'tokenomics.Transfer.Posted' ORDER BY 1 LIMIT 1"
    )[0]
    assert operator.asks("as-of", str(at), "transfers")["transfer_id"] == str(GENESIS_ID)
    assert operator.asks("as-of", posted_at.isoformat(), "transfers", str(GENESIS_ID))["position"] == at
    assert operator.types("as-of", str(at - 1), "transfers") == f"None at position {at - 1}.\n"
    assert "position_ahead" in operator.types("as-of", "999999", "transfers", code=1)
    assert "write 2026-01-01T00:00:00Z" in operator.types("as-of", "2026-01-01", "transfers", code=1)
    assert "No read model is called" in operator.types("as-of", "1", "nothing", code=1)
    assert "is no key of" in operator.types("as-of", "1", "transfers", "x", code=1)


def test_an_aggregate_is_shown_as_it_is_and_as_it_was(operator: Operator) -> None:
    (stream, first) = operator.sql("SELECT stream, position FROM log.events WHERE version = 2 ORDER BY 2 LIMIT 1")[0]
    assert operator.asks("stream", str(stream), "--as-of", str(first))["version"] == 2
    assert operator.asks("stream", str(stream), "--as-of", str(first - 1))["version"] == 1
    assert operator.asks("stream", str(GENESIS_ID))["type"] == "tokenomics.Transfer"
    assert "aggregate_not_found" in operator.types("stream", str(stream), "--as-of", "0", code=1)


def paid(operator: Operator, payer: UUID, memo: str) -> UUID:
    """A payment with a memo by somebody who has earned it, made by one more process of the village."""
    with Database(operator.url) as database:
        keys = SubjectKeyTable(database, KeyEncryptionKeys(operator.home))
        with closing(open_event_log(operator.url, subject_keys=keys)) as log, within(new_scope("test")):
            tokenomics, payee = TokenomicsService(log), uuid4()
            work = Activity("fl_participation", uuid4(), uuid4(), payer, 3_600_000, 10_000)
            claim_id = tokenomics.accrue_reward(activity=work).id
            assert claim_id is not None
            tokenomics.distribute_rewards(batch_id=uuid4(), claim_ids=[claim_id])
            tokenomics.open_wallet(owner_id=payee)
            made = tokenomics.process_payment(
                payment_id="1", from_owner_id=payer, to_owner_id=payee, grains=5, memo=memo
            ).id
    assert made is not None
    return made


def test_a_person_is_erased_although_the_clock_is_killed(operator: Operator) -> None:
    payer, other = uuid4(), uuid4()
    transfer_id, left = paid(operator, payer, "for the music"), paid(operator, other, "rent")
    assert operator.memo(transfer_id) == {"subject": str(payer), "text": "for the music", "erased": False}
    assert "has a key since" in operator.types("subjects", "show", str(payer))

    assert operator.up is not None
    killing = Thread(target=operator.up.kill, args=("worker clock",))
    killing.start()
    erased = operator.asks("subjects", "erase", str(payer), "--reason", "asked for it")
    killing.join(60)
    assert eventually(lambda: operator.asks("subjects", "show", str(payer))["key_destroyed_at"] is not None)
    assert operator.memo(transfer_id) == {"subject": str(payer), "text": None, "erased": True}
    assert operator.memo(left) == {"subject": str(other), "text": "rent", "erased": False}

    again = operator.types("subjects", "erase", str(payer), "--reason", "again")
    assert "the key is destroyed" in again
    (listed,) = operator.asks("subjects", "list")
    assert (listed["subject_id"], listed["reason"]) == (str(payer), "asked for it")
    assert erased["position"] > 0
    assert "has no key any more" in operator.types("subjects", "show", str(payer))
    assert "nothing is sealed" in operator.types("subjects", "show", str(uuid4()))
    assert operator.asks("audit", "replay")["differences"] == []
    assert operator.asks("audit", "verify")["honest"]


def test_the_keys_of_subjects_are_wrapped_anew_and_the_older_key_can_go(operator: Operator) -> None:
    transfer_id = paid(operator, uuid4(), "for tea")
    told = operator.asks("subjects", "rekey")
    (older,) = told["older"]
    assert told["newest"].endswith("subjects_0002.key")
    Path(older).unlink()
    assert operator.memo(transfer_id)["text"] == "for tea"
    assert "wrapped anew" in operator.types("subjects", "rekey")


def test_a_village_is_restored_from_its_backup_in_another_home(
    operator: Operator, short_home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "village.backup"
    head = operator.asks("db", "backup", str(file))["head"]
    assert "exists already" in operator.types("db", "backup", str(file), code=1)
    assert (tmp_path / "village.backup.keys").exists()
    other = Operator(short_home / "restored-operations")
    assert other.asks("db", "restore", str(file))["head"] == head
    assert "has facts already" in other.types("db", "restore", str(file), code=1)


def test_every_command_of_the_guide_does_something(operator: Operator, tmp_path: Path) -> None:
    commands = guided()
    assert len(commands) > 40
    assert set(commands) >= ELSEWHERE
    owner, key = uuid4(), f'"{uuid4()}"'
    transfer_id = paid(operator, owner, "for the lessons")
    (*_, (old,), (new,)) = operator.sql("SELECT size FROM log.checkpoints ORDER BY 1")
    with closing(open_event_log(operator.url)) as log:
        device_id = enrol(DeviceRegistryService(log))
    with parked_payment(operator.url, operator.home) as payment:

        def parked() -> list[str]:
            opened = operator.asks("incidents", "list", "--state", "opened")
            return [one["incident_id"] for one in opened if one["rule"] == "parked_sagas"]

        assert eventually(lambda: len(parked()) == 1)
        names = {
            "OWNER": owner, "OWNER-UUID": owner, "WALLET": wallet_id_of(owner), "TRANSFER": transfer_id,
            "ROUND": transfer_id, "SAGA": payment.process_id, "PROCESS": payment.process_id, "INCIDENT": parked()[0],
            "DEVICE_ID": device_id, "KEY": key, "POSITION": 1, "1200": operator.head, "OLD": old, "NEW": new,
        }  # fmt: skip
        for words in commands:
            if words[:2] in (("projections", "retry"), ("projections", "skip")):
                operator.set_aside("rebuild:wallets", key, 1)  # of a rebuild that is over: no projector takes it away
            if words not in ELSEWHERE:
                operator.follows(filled(words, names, tmp_path))
    operator.types("projections", "resume", "wallets", "--reason", "the guide pauses it")
    assert eventually(lambda: not operator.projections()["wallets"]["paused"])


def test_a_lie_ends_with_exit_code_one_and_its_position(operator: Operator) -> None:
    """Last: this village cannot be trusted afterwards."""
    assert eventually(lambda: operator.asks("audit", "verify")["sealed"] > 0)
    operator.sql("UPDATE log.events SET actor = 'nobody' WHERE position = 1")
    assert "The first lie is at position 1" in operator.types("audit", "verify", code=1)


def test_an_operator_suspends_reinstates_and_retires_a_device(operator: Operator) -> None:
    with closing(open_event_log((operator.home / "database.url").read_text().strip())) as log:
        device_id = str(enrol(DeviceRegistryService(log)))
    for what in ("suspend", "reinstate", "retire"):
        assert "Recorded at position" in operator.types("devices", what, device_id, "--reason", "a drill")
    assert "device_retired" in operator.types("devices", "suspend", device_id, "--reason", "a drill", code=1)
    assert "device_unknown" in operator.types("devices", "retire", str(uuid4()), "--reason", "a drill", code=1)
