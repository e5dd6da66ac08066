"""Mutation testing of one package: `python -m tests.mutants mutation.toml session.sqlite` (see `make mutation`).

Cosmic-ray makes the mutants and keeps what became of them. Each is tested in a child of this process, which has
imported all but the mutated package: that takes a tenth of the time of a new interpreter, and changes no file.
"""

import argparse
import os
import signal
import sys
import time
import warnings
from collections import Counter
from difflib import unified_diff
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cosmic_ray.config import load_config
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

TIMEOUT_S = 120
"""A mutant whose tests take longer runs for ever, as a killed one might."""
UNMUTATED = ("hypothesis.stateful", "msgspec", "psycopg_pool", "structlog", "eventsourcing.application", "tests.memory")


class Mutated(MetaPathFinder, Loader):
    """Imports one module from other source than its file's."""

    def __init__(self, path: Path, source: str) -> None:
        self.name = ".".join(path.with_suffix("").parts)
        self.path, self.source = path, source
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            self.code = compile(source, path, "exec")

    @property
    def diff(self) -> str:
        return "\n".join(unified_diff(self.path.read_text().splitlines(), self.source.splitlines(), lineterm="", n=1))

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_loader(name, self, origin=str(self.path)) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def mutant_of(item: WorkItem) -> Mutated:
    """The mutant a work item asks for. Raises SyntaxError: it is no Python."""
    (mutation,) = item.mutations
    path = Path(mutation.module_path)
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    source = mutate_code(path.read_text(), operator, mutation.occurrence)
    assert source is not None, mutation
    return Mutated(path, source)


def outcome_of(mutant: Mutated | None, tests: list[str]) -> TestOutcome:
    """Whether the tests notice a mutant; with None, whether they pass as things are."""
    child = os.fork()
    if child == 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        if mutant is not None:
            sys.meta_path.insert(0, mutant)
        os._exit(int(pytest.main(tests) != 0))
    began = time.monotonic()
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - began > TIMEOUT_S:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return TestOutcome.KILLED if ended[1] else TestOutcome.SURVIVED


def tried(item: WorkItem, tests: list[str]) -> WorkResult:
    """What becomes of one mutant."""
    try:
        mutant = mutant_of(item)
    except SyntaxError as error:
        # The star of keyword-only arguments passes for a multiplication: its mutants are no Python.
        return WorkResult(WorkerOutcome.SKIPPED, str(error))
    return WorkResult(WorkerOutcome.NORMAL, "", outcome_of(mutant, tests), mutant.diff)


def report(work: WorkDB) -> str:
    """Killed and all mutants, module by module, and those that survived as diffs."""
    results = dict(work.results)
    by_module: dict[str, Counter[str]] = {}
    lines: list[str] = []
    for item in work.work_items:
        result = results.get(item.job_id)
        outcome = "pending" if result is None else str((result.test_outcome or result.worker_outcome).value)
        by_module.setdefault(str(item.mutations[0].module_path), Counter())[outcome] += 1
        if outcome == "survived":
            lines.append(f"{item.job_id} {item.mutations[0].operator_name}\n{result.diff if result else ''}")
    for name, counts in [*sorted(by_module.items()), ("all", sum(by_module.values(), Counter()))]:
        tried = counts["killed"] + counts["survived"]
        share = f"{100 * counts['killed'] / tried:.1f} %" if tried else "-"
        lines.append(f"{name}: {counts['killed']} of {tried} killed ({share}), {counts['pending']} pending")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("session", help="as `cosmic-ray init` made it; mutants tried before are not tried again")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after the mutant that takes it so far")
    asked = parser.parse_args()
    tests = load_config(asked.config)["test-command"].split()
    os.environ["IN_MEMORY"] = "1"
    for name in UNMUTATED:
        import_module(name)
    until = time.monotonic() + asked.seconds
    with use_db(asked.session, WorkDB.Mode.open) as work:
        assert outcome_of(None, tests) is TestOutcome.SURVIVED, "the tests fail without any mutant"
        for item in list(work.pending_work_items):
            if time.monotonic() > until:
                break
            work.set_result(item.job_id, tried(item, tests))
        print(report(work))


if __name__ == "__main__":
    main()
