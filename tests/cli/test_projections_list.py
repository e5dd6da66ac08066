"""`village projections list`: who folds what."""

import json
from pathlib import Path
from typing import Any

import pytest

from infrastructure.database import Database, Role
from projections.catalogue import READ_MODELS
from projections.slots import Lease
from tests.cli.villages import environment, eventually
from tests.commands import village


@pytest.mark.parametrize(("lease_s", "folded"), [(600.0, True), (0.01, False)])
def test_a_worker_whose_lease_is_over_folds_nothing(
    database: Database, database_url: str, tmp_path: Path, lease_s: float, folded: bool
) -> None:
    def listed() -> Any:
        told = village("projections", "list", "--json", env=environment(tmp_path, database_url=database_url)).stdout
        return {bool(row["worker"]) for row in json.loads(told)["projections"]}

    with database.connect(Role.PROJECTOR) as connection:
        Lease("a worker", READ_MODELS, lease_s=lease_s).slots(connection)
    assert eventually(lambda: listed() == {folded})
