"""What a read model cannot fold on a real Postgres: set aside, retried, skipped; and paused by hand."""

from uuid import uuid4

import pytest

from domain.kernel import new_scope, within
from domain.monitoring import MonitoringService, Projection
from domain.monitoring.projection import LetterAlreadySkipped, ProjectionAlreadyPaused, ProjectionNotPaused
from domain.monitoring.service import LetterUnknown, ProjectionUnknown
from projections.letters import DeadLetters
from projections.monitoring import Controls

from .operated import BROKEN, Village, village

__all__ = ["village"]


def test_later_facts_of_a_poisoned_row_wait_behind_the_letter_and_other_rows_go_on(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.open("Ada", 5)
    village.project()
    village.deposit(bob, 3)
    village.project()

    assert village.balances() == {"Bob": 0, "Ada": 5}
    assert [poison for _, _, poison in village.letters()] == [True, False, False]


def test_retry_folds_the_letters_in_order_once_the_fault_is_mended(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.project()
    BROKEN.clear()
    village.deposit(bob, 4)
    village.operate(village.monitoring.retry_letter, key=f'"{bob}"')
    village.project()

    assert village.balances() == {"Bob": 7}
    assert village.letters() == []
    assert village.differences() == []


def test_retry_of_a_fault_that_stands_is_obeyed_once_and_leaves_the_letters(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.project()
    village.operate(village.monitoring.retry_letter, key=f'"{bob}"')
    village.project()

    assert [poison for _, _, poison in village.letters()] == [True, False]
    assert village.balances() == {"Bob": 0}


def test_skip_leaves_the_fact_out_for_good_and_a_rebuild_leaves_it_out_too(village: Village) -> None:
    BROKEN.add("Bob")
    bob = village.open("Bob", 1, 2)
    village.project()
    BROKEN.clear()
    key, position, _ = village.letters()[0]
    village.operate(village.monitoring.skip_letter, key=key, position=position)
    village.project()
    assert village.balances() == {"Bob": 2}

    village.operate(village.monitoring.rebuild_projection)
    village.project()
    assert village.balances() == {"Bob": 2}
    assert village.differences() == []
    assert bob is not None


def test_a_row_that_cannot_be_stored_is_found_and_held_back_alone(village: Village) -> None:
    village.open("Bob", 1, 10**9, 1)
    village.open("Ada", 5)
    village.project()

    assert village.balances() == {"Bob": 1, "Ada": 5}
    assert [poison for _, _, poison in village.letters()] == [True, False]


def test_a_paused_model_stands_still_and_goes_on_where_it_was(village: Village) -> None:
    village.open("Ada", 5)
    village.operate(village.monitoring.pause_projection)
    village.project()
    before = village.balances()
    ada = village.open("Eve", 6)
    village.project()
    assert village.balances() == before

    village.operate(village.monitoring.resume_projection)
    village.project()
    assert village.balances() == {"Ada": 5, "Eve": 6}
    assert ada is not None


def test_controls_refuse_what_makes_no_sense_and_record_nothing(village: Village) -> None:
    village.operate(village.monitoring.pause_projection)
    village.operate(village.monitoring.skip_letter, key='"x"', position=1)
    head = village.log.head()
    with within(new_scope("operator:test")):
        with pytest.raises(ProjectionUnknown):
            village.monitoring.pause_projection(name="nothing", reason="?")
        with pytest.raises(ProjectionAlreadyPaused):
            village.monitoring.pause_projection(name="balances", reason="again")
        with pytest.raises(LetterAlreadySkipped):
            village.monitoring.skip_letter(name="balances", key='"x"', position=1, reason="again")
        village.monitoring.resume_projection(name="balances", reason="go on")
        with pytest.raises(ProjectionNotPaused):
            village.monitoring.resume_projection(name="balances", reason="again")
    assert village.log.head() == head + 1
    assert village.log.load(Projection, Projection.create_id("balances")).paused is False


def test_controls_that_were_paused_by_an_older_village_are_obeyed_all_the_same(village: Village) -> None:
    paused = Projection(name=Controls.name)
    paused._paused(name=Controls.name, reason="a mistake")
    with within(new_scope("operator:test")):
        village.log.record(paused)
    village.project()
    village.operate(village.monitoring.pause_projection)
    village.project()
    assert village.query("SELECT projection, paused FROM read.projection_controls ORDER BY 1") == [
        ("balances", True),
        ("projection_controls", True),
    ]


def test_only_what_is_set_aside_is_retried_or_skipped(village: Village) -> None:
    monitoring = MonitoringService(village.log, ["balances"], DeadLetters(village.database))
    BROKEN.add("Bob")
    bob = village.open("Bob", 1)
    village.project()
    BROKEN.clear()
    ((key, position, _),) = village.letters()
    head = village.log.head()
    for wrong in ({"key": key, "position": position + 1}, {"key": f'"{uuid4()}"', "position": position}):
        with pytest.raises(LetterUnknown):
            village.operate(monitoring.skip_letter, **wrong)
    with pytest.raises(LetterUnknown):
        village.operate(monitoring.retry_letter, key="bob")
    assert village.log.head() == head
    village.operate(monitoring.retry_letter, key=f'"{bob}"')
    village.project()
    assert village.balances() == {"Bob": 1}
