"""The event catalogue only gains lines."""

from pathlib import Path

from domain.kernel.catalogue import append_missing, committed_lines, lines_of_code, problems

OLD = "things.Thing.Made 1 thing_id:UUID name:str"
NEW = "things.Thing.Made 2 thing_id:UUID name:str size_bytes:int"


def test_every_event_of_the_code_is_committed_and_no_committed_event_has_changed_or_gone() -> None:
    assert problems(lines_of_code(), committed_lines()) == []


def test_a_topic_that_leaves_the_code_is_reported() -> None:
    assert problems([], [OLD]) == ["things.Thing.Made is in the log for ever, and the code no longer has it"]


def test_a_field_that_changes_without_a_new_version_is_reported_twice_over() -> None:
    changed = "things.Thing.Made 1 thing_id:UUID name:int"
    first, second = problems([changed], [OLD])
    assert "raise its class_version" in first
    assert "not committed" in second


def test_an_event_that_is_not_committed_is_reported_with_the_command_that_adds_it() -> None:
    (found,) = problems([OLD], [])
    assert "python -m domain.kernel.catalogue" in found


def test_a_new_version_stands_beside_the_old_one_and_the_old_one_may_not_leave() -> None:
    assert problems([NEW], [OLD, NEW]) == []
    assert problems([NEW], [NEW]) == ["things.Thing.Made version 1 has left the catalogue"]


def test_a_line_committed_twice_is_reported() -> None:
    assert problems([OLD], [OLD, OLD]) == [f"committed twice: {OLD}"]


def test_appending_keeps_what_is_there_and_adds_nothing_a_second_time(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.txt"
    path.write_text(f"{OLD}\n")
    added = append_missing(path)
    assert path.read_text().splitlines() == [OLD, *added]
    assert append_missing(path) == []
