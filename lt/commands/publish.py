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
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lt import artefact, tables
from lt.commands.explain import rows_of
from lt.errors import UserError

COLUMNS = ("stage", "verb", "finished", "wall_s", "peak_mb", "device", "threads", "code", "manifest", "weights", "git")

DIGEST = re.compile(r"^- sha256 of `([^`]+)`: ([0-9a-f]{64})$", re.MULTILINE)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="results/tables/<table>.csv")
    parser.add_argument("--to", type=Path, default=Path("docs/reference"), help="a folder <table> is made in it")
    parser.add_argument("--note", action="append", default=[], help="a line for made.md, again for more")


def main(given: argparse.Namespace) -> None:
    from lt.stages.tabulate import tabulate

    name = given.table.stem
    rows = rows_of(given.table)
    opened = list(behind(Path(row["manifest"]) for row in rows))
    if not opened:
        raise UserError(f"{given.table}: none of its {len(rows)} runs is finished")
    tabulate(tables.recipe_of(given.table), out=given.table)
    folder = given.to / name
    with artefact.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = write(folder, given.table, opened)
        (folder / "made.md").write_text(made(name, rows, opened, files, given.note))
    print(f"{folder}: {len(opened)} artefacts behind {sum(Path(r['manifest']).exists() for r in rows)} runs")


def write(folder: Path, table: Path, opened: list[artefact.Artefact]) -> list[Path]:
    """The table in its forms, its comparisons where some were planned and made, and `runs.csv`."""
    files = [folder / table.with_suffix(suffix).name for suffix in (".csv", ".md", ".tex", ".comparisons.csv")]
    for file in files:
        shutil.copyfile(table.with_name(file.name), file)
    if len(files[-1].read_text().splitlines()) < 2:
        files.pop().unlink()
    files.append(folder / "runs.csv")
    with open(files[-1], "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(each) for each in opened)
    return files


def behind(manifests: Iterator[Path]) -> Iterator[artefact.Artefact]:
    """Every artefact that these were made from, parents first, each once; one that was changed is an error."""
    seen: set[Path] = set()

    def chain(manifest: Path) -> Iterator[artefact.Artefact]:
        if manifest in seen or not manifest.exists():
            return
        seen.add(manifest)
        opened = artefact.read(manifest)
        for name, folder in opened.manifest["parents"].items():
            parent = Path(folder) / artefact.MANIFEST
            yield from chain(parent)
            if parent.exists() and artefact.sha256(parent) != opened.manifest["inputs"][name]:
                raise UserError(f"{opened.folder}: stale: {name} ({folder}) is not what it was made from{opened.again}")
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


def made(name: str, rows: list[dict], opened: list[artefact.Artefact], files: list[Path], notes: list[str]) -> str:
    """What machine, versions and commands made the table, and the digests of the files beside it."""
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
        *(f"- sha256 of `{file.name}`: {artefact.sha256(file)}" for file in files),
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def published_problems(note: Path) -> list[str]:
    """Of a published table, by its made.md: files that were changed, are missing, or came from elsewhere."""
    folder = note.parent
    try:
        known = dict(DIGEST.findall(note.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return [f"{note}: cannot read; publish the table again: lt publish results/tables/{folder.name}.csv"]
    if not known:
        return [f"{note}: names no digest; publish the table again: lt publish results/tables/{folder.name}.csv"]
    there = {path.name for path in folder.iterdir() if path != note}
    problems = [f"{folder / name}: missing" for name in sorted(known.keys() - there)]
    problems += [f"{folder / name}: not named in {note.name}" for name in sorted(there - known.keys())]
    changed = (n for n in sorted(known.keys() & there) if not _is(folder / n, known[n]))
    return problems + [f"{folder / name}: changed since it was published" for name in changed]


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and artefact.sha256(path) == digest


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
