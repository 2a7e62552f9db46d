"""`lt publish TABLE`: a table with the evidence behind it, as small text files that a repository can hold.

`runs.csv` has a row for every artefact behind the table: digest, code, revision, cost. A table that is not finished
can be published; its missing rows say so.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lt import artefact
from lt.errors import UserError

COLUMNS = ("stage", "verb", "finished", "wall_s", "peak_mb", "device", "threads", "code", "manifest", "weights", "git")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="results/tables/<table>.csv")
    parser.add_argument("--to", type=Path, default=Path("docs/reference"), help="a folder <table> is made in it")
    parser.add_argument("--note", action="append", default=[], help="a line for made.md, again for more")


def main(given: argparse.Namespace) -> None:
    from lt.stages.tabulate import tabulate

    name = given.table.stem
    recipe = given.table.parent.parent / "recipes" / f"{name}.json"
    if not recipe.exists():
        raise UserError(f"{recipe}: no recipe of this table; make it: snakemake --cores all {recipe}")
    rows = json.loads(recipe.read_text())["rows"]
    opened = list(behind(Path(row["manifest"]) for row in rows))
    if not opened:
        raise UserError(f"{given.table}: none of its {len(rows)} runs is finished")
    folder = given.to / name
    folder.mkdir(parents=True, exist_ok=True)
    tabulate(recipe, out=given.table)
    for suffix in (".csv", ".md"):
        shutil.copyfile(given.table.with_suffix(suffix), folder / f"{name}{suffix}")
    with open(folder / "runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(each) for each in opened)
    (folder / "made.md").write_text(made(name, rows, opened, given.note))
    print(f"{folder}: {len(opened)} artefacts behind {sum(Path(r['manifest']).exists() for r in rows)} runs")


def behind(manifests: Iterator[Path]) -> Iterator[artefact.Artefact]:
    """Every artefact that these were made from, parents first, each once."""
    seen: set[Path] = set()

    def chain(manifest: Path) -> Iterator[artefact.Artefact]:
        if manifest in seen or not manifest.exists():
            return
        seen.add(manifest)
        opened = artefact.read(manifest, verify=False)
        for parent in opened.manifest["parents"].values():
            yield from chain(Path(parent) / artefact.MANIFEST)
        yield opened

    for manifest in manifests:
        yield from chain(manifest)


def _row(opened: artefact.Artefact) -> dict[str, Any]:
    content, facts = opened.manifest, opened.facts()
    found = {
        "stage": content["stage"],
        "verb": content["recipe"].get("verb"),
        "code": content["recipe"].get("code"),
        "manifest": opened.digest[:16],
        "weights": content["outputs"].get("model.safetensors", {}).get("sha256", "")[:16],
        "device": content.get("device"),
        "threads": content.get("threads"),
    }
    return {**found, **{k: facts.get(k) for k in ("finished", "wall_s", "peak_mb", "git")}}


def made(name: str, rows: list[dict], opened: list[artefact.Artefact], notes: list[str]) -> str:
    """What machine, versions and commands made the table."""
    there = sum(Path(row["manifest"]).exists() for row in rows)
    facts = [each.facts() for each in opened]
    revisions = sorted({f["git"] for f in facts if f.get("git")})
    finished = sorted(f["finished"] for f in facts if f.get("finished"))
    hours = sum(f.get("wall_s", 0.0) for f in facts) / 3600
    versions = {json.dumps(each.manifest["environment"], sort_keys=True) for each in opened}
    lines = [
        f"# How `{name}` was made",
        "",
        f"- runs: {there} of {len(rows)} finished, {len(opened)} artefacts, {hours:.1f} hours of jobs (`runs.csv`)",
        f"- machine: {machine()}",
        *(f"- versions: {', '.join(f'{k} {v}' for k, v in json.loads(each).items())}" for each in sorted(versions)),
        f"- revisions: {', '.join(revisions) or 'not in a repository'}",
        f"- from {finished[0]} to {finished[-1]}" if finished else "- time: not recorded",
        f"- command: `snakemake --cores all results/tables/{name}.csv`",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """This machine, without its name: processor, cores, memory."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"
