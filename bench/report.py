"""Results as JSON and as one markdown table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.harness import Result

SIGNS = {"ratio": "x", "seconds": " s", "share": " %", "exponent": "", "us": " us"}
HEAD = (
    "id",
    "case",
    "measured",
    "quartiles",
    "demand",
    "verdict",
    "ordinary",
    "ours",
    "ordinary over anchor",
    "equal within",
)


def cells(result: Result) -> list[str]:
    sign = SIGNS[result.kind]
    quartiles = "" if result.q1 is None else f"{result.q1:.3g}-{result.q3:.3g}, n={result.rounds}"
    relation = ">=" if result.kind == "ratio" else "<="

    def each(value: float | None) -> str:
        return "" if value is None else f"{value:,.3g} us/{result.unit}"

    return [
        result.id,
        result.what,
        f"{result.value:.3g}{sign}",
        quartiles,
        f"{relation} {result.demand:g}",
        result.verdict,
        each(result.ordinary_us),
        each(result.ours_us),
        "" if result.anchor_share is None else f"{result.anchor_share:.2f}",
        result.tolerance,
    ]


def markdown(results: Sequence[Result], machine: dict[str, Any]) -> str:
    rows = [list(HEAD), ["---"] * len(HEAD), *(cells(r) for r in results)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    facts = ", ".join(f"{key} {value}" for key, value in machine.items())
    return f"Measured on: {facts}.\n\n{table}\n"


def write(results: Sequence[Result], machine: dict[str, Any], folder: Path) -> list[Path]:
    """`bench.json` and `bench.md` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "results": [r.as_dict() for r in results]}
    paths = [folder / "bench.json", folder / "bench.md"]
    paths[0].write_text(json.dumps(content, indent=1) + "\n")
    paths[1].write_text(markdown(results, machine))
    return paths
