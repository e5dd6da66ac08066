"""`python -m benchmarks.report`: docs/benchmarks.md, made from what the benchmarks wrote in results/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"

INTRO = """\
# Benchmarks

Each table is the output of one run of `make bench BENCH=NAME`: ours, the limit (what the disk, the database or the
memory alone does with the same rows) and a peer (other software doing the same), measured in one run, one after the
other in turns, medians. Ratios hold on other machines, figures do not. Durable means flushed to disk and acknowledged
after the commit. What is held against each figure is written in `benchmarks/NAME.py`. This page is made from
`benchmarks/results/` by `python -m benchmarks.report`.
"""

HEAD = "| what | ours | limit | ours / limit | peer | ours / peer | target | |\n|---|---|---|---|---|---|---|---|"


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page from the results by name, each as a benchmark wrote it."""
    rows = [row for found in results.values() for row in found["rows"]]
    missed = sum(not row["met"] for row in rows)
    summary = f"{len(rows) - missed} of {len(rows)} targets are met" + ("; the others say why." if missed else ".")
    return "\n".join([INTRO, summary, *(_section(name, found) for name, found in sorted(results.items())), ""])


def _section(name: str, found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    notes = list(dict.fromkeys(f"- {row['note']}" for row in found["rows"] if row["note"]))
    return "\n".join(
        [
            f"\n## {name}\n",
            HEAD,
            *(_line(row) for row in found["rows"]),
            *(["", *notes] if notes else []),
            "",
            f"Measured on {machine['cores']} cores, {machine['memory_mb'] / 1000:.0f} GB, Python {machine['python']},"
            f" {machine['system']}; load before: {machine['load_before']}.",
        ]
    )


def _line(row: Mapping[str, Any]) -> str:
    cells = [
        row["row"],
        f"{_figure(row['ours'])} {row['unit']}",
        _figure(row["limit"]),
        _figure(row["ratio_limit"]),
        _figure(row["peer"]),
        _figure(row["ratio_peer"]),
        row["target"],
        "met" if row["met"] else "**missed**",
    ]
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    """Three digits that count; whole numbers above a hundred."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def kept() -> dict[str, Any]:
    """What the last runs wrote, by benchmark."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


if __name__ == "__main__":
    PAGE.write_text(page(kept()))
