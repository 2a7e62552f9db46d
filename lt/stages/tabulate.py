"""`tabulate`: metrics of many runs beside the published numbers -> results/tables/<table>.csv, .md, .tex. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lt import published, tables
from lt.stages.common import Recipe


def tabulate(recipe: str | Path, *, out: str | Path) -> None:
    """A run without metrics becomes a row that says so, and which command makes it."""
    opened = Recipe.read(recipe).raw
    frame = tables.tabulate([row_of(row) for row in opened["rows"]], published.load(), opened["table"])
    for suffix in (".csv", ".md", ".tex"):
        tables.write(frame, Path(out).with_suffix(suffix))


def row_of(row: dict[str, Any]) -> dict[str, Any]:
    """The recipe's row, completed by what the run measured."""
    row = dict(row)
    manifest = Path(row.pop("manifest"))
    metrics = manifest.parent / "metrics.json"
    if not manifest.exists() or not metrics.exists():
        return {**row, "missing": f"snakemake --cores all {manifest}"}
    found = json.loads(metrics.read_text())
    own = {f"{name}_own": value for name, value in found.get("own_groups", {}).items()}
    measured = {
        key: found[key]
        for key in ("tau", "experts", "gmacs", "gmacs_published", "selected_on")
        if found.get(key) is not None
    }
    return {**row, **measured, **found["cost"], "metrics": {**found["metrics"], **own}}
