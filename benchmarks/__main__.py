"""`python -m benchmarks [NAME ...] [--json] [--list]`: runs claims one after the other, and keeps the results."""

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.table import Row, machine

RESULTS = Path(__file__).parent / "results"
BESIDE = {
    "__init__",
    "__main__",
    "bare",
    "history",
    "library",
    "line",
    "meter",
    "mixture",
    "report",
    "table",
    "village",
}


def names() -> list[str]:
    """Every benchmark: the modules of this package that measure something."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in BESIDE)


def run(name: str) -> list[Row]:
    """Runs one benchmark and writes results/NAME.json beside this file."""
    where = machine()
    rows: list[Row] = importlib.import_module(f"benchmarks.{name}").run()
    RESULTS.mkdir(exist_ok=True)
    found = {"machine": where, "rows": [row.as_json() for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    return rows


def main() -> int:
    """Exit code 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    parser.add_argument("--list", action="store_true", help="only name the benchmarks")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(names()))
        return 0
    unknown = set(asked.names) - set(names())
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}: {', '.join(names())}")
    rows = [row for name in asked.names or names() for row in _told(run(name), asked.json)]
    return 0 if all(row.met for row in rows) else 1


def _told(rows: list[Row], as_json: bool) -> list[Row]:
    for row in rows:
        if as_json:
            print(json.dumps(row.as_json()), flush=True)
        else:
            word = "met" if row.met else "MISSED"
            print(f"{row.row:<40} {row.ours:>12g} {row.unit:<8} {word:<7} {row.target}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
