"""The house: who may import whom, where the top-level names come from, and how large a part may get."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("domain", "projections", "api", "workers", "infrastructure", "cli")


def lint_imports(where: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(where), "NO_COLOR": "1", "COLUMNS": "300"}
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The house's packages without what they are not."""
    place = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__", "*.js"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("domain/kernel/violation.py", "import infrastructure.settings", "cli > api | workers"),
        ("domain/tokenomics/violation.py", "import domain.device_registry.device", "inside domain"),
        ("domain/kernel/violation.py", "import domain.tokenomics.wallet", "inside domain"),
        ("domain/sagas/violation.py", "import asyncio", "domain is pure"),
        ("domain/device_registry/violation.py", "import psycopg", "domain is pure"),
        ("api/edge/violation.py", "import torch", "api never imports torch"),
        ("api/edge/violation.py", "import workers.pump", "cli > api | workers"),
        ("infrastructure/violation.py", "import projections.rows", "cli > api | workers"),
        ("projections/device_registry/violation.py", "import projections.tokenomics", "a context's read models"),
    ],
)
def test_a_deliberate_violation_is_found(copy: Path, module: str, line: str, broken: str) -> None:
    path = copy / module
    beside = path.parent.with_suffix(".py")
    if beside.exists():  # a context of one module
        with beside.open("a") as file:
            file.write(f"\n{line}\n")
        restore = (ROOT / module).parent.with_suffix(".py").read_text()
    else:
        path.write_text(f"{line}\n")
        restore = None
    try:
        done = lint_imports(copy)
    finally:
        if restore is None:
            path.unlink()
        else:
            beside.write_text(restore)
    assert done.returncode == 1, done.stdout
    kept_or_broken = [text for text in done.stdout.splitlines() if text.startswith(broken)]
    assert kept_or_broken
    assert kept_or_broken[0].endswith("BROKEN"), done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_top_level_name_is_the_house_s_own(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "__init__.py")


def test_every_module_says_in_one_line_what_it_is() -> None:
    silent = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.parent.name == "versions":
                continue
            said = ast.get_docstring(ast.parse(path.read_text()))
            if not said or not said.splitlines()[0].strip():
                silent.append(str(path.relative_to(ROOT)))
    assert not silent


def test_neither_the_api_nor_an_aggregator_without_a_round_imports_torch() -> None:
    code = "import sys, api.app, api.schema, cli.compose, workers.aggregator.worker; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
