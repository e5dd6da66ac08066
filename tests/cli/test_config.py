"""`village config` and `village db`, as a person at a terminal or a script uses them."""

import json
import shutil
from pathlib import Path

from infrastructure.database import head
from tests.cli.villages import environment
from tests.commands import village


def test_every_setting_is_listed_and_secrets_are_hidden(tmp_path: Path) -> None:
    env = environment(tmp_path, database_url="postgresql://me:sesame@db/village", harvest_reward_rat="1", redis_url="x")
    done = village("config", "show", env=env)
    assert done.returncode == 0
    assert "VILLAGE_MAX_PARTICIPANTS_PER_ROUND" in done.stdout
    sources = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert (sources["VILLAGE_REDIS_URL"], sources["VILLAGE_HARVEST_REWARD_RATE"]) == ("unused", "default")
    assert "sesame" not in done.stdout + done.stderr
    assert "VILLAGE_HARVEST_REWARD_RAT is unknown" in done.stderr
    assert "VILLAGE_REDIS_URL is accepted and unused" in done.stderr


def test_settings_are_printed_as_json_too(tmp_path: Path) -> None:
    answer = json.loads(village("config", "show", "--json", env=environment(tmp_path)).stdout)
    assert answer["settings"]["home"] == str(tmp_path)
    assert answer["settings"]["supported_frameworks"] == ["pytorch", "tensorflow"]
    assert answer["warnings"] == []


def test_a_wrong_setting_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    done = village("config", "check", env=environment(tmp_path, api_port="99999"))
    assert done.returncode == 1
    assert done.stderr.startswith("VILLAGE_API_PORT: ")
    assert village("config", "check", env=environment(tmp_path)).returncode == 0


def test_the_embedded_database_is_migrated_without_a_running_village(short_home: Path) -> None:
    env = environment(short_home / "db")
    assert village("db", "status", env=env).returncode == 1
    done = village("db", "migrate", "--json", env=env)
    assert json.loads(done.stdout) == {"before": None, "now": head()}, done.stderr
    assert village("db", "status", env=env).returncode == 0
    shutil.rmtree(short_home / "db")
