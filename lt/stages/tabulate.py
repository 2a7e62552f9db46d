"""`tabulate`: many runs beside the published numbers -> results/tables/<table>.csv, .md, .tex, .html, .json."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lt import artefact, published, tables, tables_text
from lt.artefact import dump, write_text
from lt.comparisons import comparisons
from lt.errors import UserError
from lt.stages.common import Recipe, read_metrics

HEADLINE = ("top1", "many", "medium", "few", "hm", "gm")


def tabulate(recipe: str | Path, *, out: str | Path, times: Path | None = None) -> None:
    """A run without metrics becomes a row that says so, and which command makes it.

    `times`: the same table as it was made where the benchmark files are, which do not travel with results.
    """
    opened = Recipe.of_table(recipe).raw
    rows = [row_of(row) for row in opened["rows"]] + opened.get("senseless", [])
    frame = tables.tabulate(rows, published.load(), opened["table"])
    if times:
        frame["job_s"] = as_told(times, frame["job_s"])
    for suffix in (".csv", ".md", ".tex", ".html"):
        tables.write(frame, Path(out).with_suffix(suffix))
    compared = comparisons(rows, present(opened.get("comparisons", []), rows))
    compared.attrs["table"] = opened["table"]
    write_text(Path(out).with_suffix(".comparisons.csv"), tables.to_csv(compared))
    if len(compared):
        with open(Path(out).with_suffix(".md"), "a") as file:
            file.write(tables_text.comparisons_md(compared))
    write_text(Path(out).with_suffix(".json"), dump(summary(frame.to_dict("records"))))


def as_told(table: Path, known: Iterable[float | None]) -> list[float | None]:
    """Seconds of jobs, row by row; those of the table where they are not known here."""
    told = [row["job_s"] for row in tables.read(table, "job_s")]
    known = list(known)
    if len(told) != len(known):
        return known
    try:
        return [float(text) if own is None and text else own for own, text in zip(known, told, strict=True)]
    except ValueError as error:
        raise UserError(f"{table}: column 'job_s': expected numbers ({error})") from None


def present(pairs: list[list[str]], rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The planned pairs that have runs; the others wait for theirs."""
    there = {row["method"] for row in rows if row.get("metrics")}
    return [(a, b) for a, b in pairs if {a, b} <= there]


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over seeds, one entry a method: what `dvc metrics show` and `diff` read.

    Data set, network and choice of epoch stand in an entry's name only where they differ within the table.
    """
    means = [row for row in rows if row["seed"] == "mean"]
    parts = [k for k in ("set", "method", "arch", "selected_on") if k == "method" or len({r[k] for r in means}) > 1]
    return {
        " ".join(str(row[k]) for k in parts): {k: round(row[k], 4) for k in HEADLINE if row.get(k) is not None}
        for row in means
    }


def row_of(row: dict[str, Any]) -> dict[str, Any]:
    """The recipe's row, completed by what the run measured."""
    row = dict(row)
    manifest = Path(row.pop("manifest"))
    if not manifest.exists():
        return {**row, "missing": f"snakemake --cores all {manifest}"}
    found = read_metrics(artefact.read(manifest))
    own = {f"{name}_own": value for name, value in found.get("own_groups", {}).items()}
    measured = {
        key: found[key]
        for key in ("tau", "experts", "gmacs", "gmacs_published", "selected_on")
        if found.get(key) is not None
    }
    measured |= {f"{name}_ci95": (high - low) / 2 for name, (low, high) in found.get("bootstrap", {}).items()}
    cost = {**found["cost"], "job_s": job_seconds(manifest)}
    return {**row, **measured, **cost, "metrics": {**found["metrics"], **own}}


def chain(manifest: Path) -> Iterator[Path]:
    """This artefact's folder and those of all that it was made from, each once."""
    seen, todo = set(), [manifest.parent]
    while todo:
        folder = todo.pop()
        if folder not in seen and (folder / artefact.MANIFEST).exists():
            seen.add(folder)
            yield folder
            todo += [Path(p) for p in artefact.read(folder, verify=False).manifest["parents"].values()]


def job_seconds(manifest: Path) -> float | None:
    """Seconds of every job behind a run, start-up included, from Snakemake's benchmark files; None where one lacks."""
    total = 0.0
    for folder in chain(manifest):
        try:
            inner = folder.relative_to("results")
            if inner.parts[0] == "metrics":
                inner = Path(*inner.parts[1:-1], "metrics", inner.name)
            with open(Path("benchmarks") / f"{inner}.tsv", newline="") as file:
                total += sum(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))
        except (OSError, KeyError, ValueError):
            return None
    return total
