"""What `village audit explain` prints of a fact."""

from cli.audit import shortened


def test_a_long_list_is_told_by_its_first_values_and_how_many_follow() -> None:
    assert shortened(["a", "b", "c", "d", "e"]) == '["a", "b", "c", ... 2 more (--full shows them)]'


def test_a_short_list_and_a_plain_value_are_told_whole() -> None:
    assert shortened([1, 2, 3]) == "[1, 2, 3]"
    assert shortened("all of it") == '"all of it"'
