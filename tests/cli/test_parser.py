"""The parts of the command `village` explain themselves."""

import importlib

import pytest
from typer.testing import CliRunner

from cli.main import PARTS


@pytest.mark.parametrize("name", PARTS)
def test_the_help_of_a_part_tells_its_own_options_and_nothing_of_shells(name: str) -> None:
    part = importlib.import_module(f"cli.{name.replace('-', '_')}")
    shown = CliRunner().invoke(part.app, ["--help"])
    assert shown.exit_code == 0
    assert "--help" in shown.output
    assert "completion" not in shown.output
