"""Every refusal has a class, a code of its own and a rule: clients decide by the code, people read the rule."""

import importlib
import pkgutil
from collections import Counter

from domain.kernel import Refusal
from tests.test_architecture import PACKAGES


def every(kind: type[Refusal]) -> set[type[Refusal]]:
    return {found for child in kind.__subclasses__() for found in (child, *every(child))}


def ours() -> list[type[Refusal]]:
    """All refusals of the house, once all of it has been imported."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if ".migrations" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return [refusal for refusal in every(Refusal) if refusal.__module__.split(".")[0] in PACKAGES]


def test_no_two_refusals_share_a_code() -> None:
    assert [code for code, count in Counter(refusal.code for refusal in ours()).items() if count > 1] == []


def test_every_refusal_states_its_rule_and_a_status_of_a_refusal() -> None:
    for refusal in ours():
        assert refusal.__doc__, refusal
        assert refusal.__doc__.strip().splitlines()[0].endswith((".", ":")), refusal
        assert 400 <= refusal.status < 500 or refusal.status == 503, refusal
