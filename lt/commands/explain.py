"""`lt explain TABLE --row METHOD --column NAME`: from a cell to metrics, predictions, weights, subsets, split, data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lt import artefact, tables
from lt.errors import UserError, nearest
from lt.stages.common import Recipe, read_metrics

UNTOLD = (None, [], {}, "")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="results/tables/<table>.csv")
    parser.add_argument("--row", required=True, metavar="METHOD", help="the method, as in the table")
    parser.add_argument("--column", default="top1", help="the metric (top1)")
    parser.add_argument("--set", help="the data set, where the table has several")
    parser.add_argument("--arch", help="the network, where the table has several")
    parser.add_argument("--seed", default="mean", help="one seed, or the mean over all (default)")


def main(given: argparse.Namespace) -> None:
    print("\n".join(explained(given)))


def explained(given: argparse.Namespace) -> Iterator[str]:
    """The cell, then for every run behind it the chain of artefacts, nearest first, each once."""
    row = find_row(given)
    yield f"{given.table}: {row['set']} {row['method']} {row['arch']}, seed {row['seed']}: {given.column} = " + (
        row[given.column] or "(empty)"
    )
    for key in ("verdict", "published", "source"):
        if row.get(key):
            yield f"  {key}: {row[key]}"
    seen: set[Path] = set()
    for each in rows_of(given.table):
        identity = (each.get("dataset"), each.get("method"), each.get("arch"))
        if identity != (row["set"], row["method"], row["arch"]) or row["seed"] not in ("mean", str(each.get("seed"))):
            continue
        yield f"\nseed {each.get('seed')}"
        yield from _run(Path(each["manifest"]), given.column, seen)


def find_row(given: argparse.Namespace) -> dict[str, str]:
    rows = tables.read(given.table, given.column)
    methods = dict.fromkeys(r["method"] for r in rows)
    if given.row not in methods:
        raise UserError(f"{given.table}: no row '{given.row}'{nearest(given.row, methods)}")
    rows = [r for r in rows if r["method"] == given.row]
    for option, key in (("set", "set"), ("arch", "arch")):
        wanted, known = getattr(given, option), dict.fromkeys(r[key] for r in rows)
        if wanted and wanted not in known:
            raise UserError(f"{given.table}: --{option} '{wanted}'{nearest(wanted, known)}")
        if not wanted and len(known) > 1:
            raise UserError(f"{given.table}: '{given.row}' has several; add --{option} {' | '.join(known)}")
        rows = [r for r in rows if not wanted or r[key] == wanted]
    chosen = [r for r in rows if r["seed"] == given.seed]
    if not chosen:
        raise UserError(f"{given.table}: no seed '{given.seed}'; known: {', '.join(r['seed'] for r in rows)}")
    return chosen[0]


def rows_of(table: Path) -> list[dict[str, Any]]:
    """What the recipe of a table lists: its runs."""
    path = tables.recipe_of(table)
    if not path.is_file():
        raise UserError(f"{path}: no recipe of this table{tables.again(table, path)}")
    return Recipe.of_table(path).raw["rows"]


def _run(manifest: Path, column: str, seen: set[Path]) -> Iterator[str]:
    if not manifest.exists():
        yield f"  not there; make it: snakemake --cores all {manifest}"
        return
    metrics = read_metrics(artefact.read(manifest, verify=False))
    if (value := metrics["metrics"].get(column)) is not None:
        yield f"  {column} = {value!r} in {manifest.parent / 'metrics.json'}"
    yield from _chain(manifest.parent, "metrics", seen)


def _chain(start: Path, role: str, seen: set[Path]) -> Iterator[str]:
    """Breadth first: what stands near the number comes first."""
    todo = [(start, role, "")]
    while todo:
        folder, role, wanted = todo.pop(0)
        if folder in seen:
            continue
        seen.add(folder)
        if not (folder / artefact.MANIFEST).exists():
            yield f"  {role:12} {folder}  (not here; snakemake --cores all {folder / artefact.MANIFEST})"
            continue
        opened = artefact.read(folder, verify=False)
        yield from _node(opened, role, wanted)
        for name, parent in opened.manifest["parents"].items():
            todo.append((Path(parent), name, opened.manifest["inputs"][name]))


def _node(opened: artefact.Artefact, role: str, wanted: str) -> Iterator[str]:
    made = opened.manifest["recipe"]
    stale = "   STALE: changed since its child was made" if wanted and wanted != opened.digest else ""
    yield f"  {role:12} {opened.folder}  sha256 {opened.digest[:12]}  code {made.get('code', '?')}{stale}"
    problems = opened.check()
    for problem in problems:
        yield f"      CHANGED: {problem}"
    for name, meta in opened.manifest["outputs"].items():
        yield f"      {name}  {meta['bytes']} bytes  sha256 {meta['sha256'][:12]}"
    given = {
        k: v for k, v in made.get("params", {}).items() if _text(v) not in ("null", "[]", "{}", "") and k != "verb"
    }
    if given:
        yield "      params: " + ", ".join(f"{k}={_text(v)}" for k, v in given.items())
    if made.get("stage") == "split":
        data = {k: v for k, v in made["data"].items() if v not in UNTOLD}
        yield "      data: " + ", ".join(f"{k}={_text(v)}" for k, v in data.items())
        yield f"      data digest: sha256 {opened.manifest.get('data_digest', '')[:12]}"
    if imported := opened.manifest.get("imported"):
        yield f"      imported: {imported['path']}  sha256 {imported['sha256']}  layout {imported['layout']}"
    facts = opened.facts()
    if facts:
        where = f"on {facts.get('host')} in {facts.get('wall_s')} s, git {facts.get('git')}"
        yield f"      made: {facts.get('finished')} {where}"
    yield f"      again: {command_of(opened)}"
    yield f"             snakemake --cores all --force {opened.folder / artefact.MANIFEST}"


def command_of(opened: artefact.Artefact) -> str:
    """The stage's own command, as its recipe and parents say it."""
    made, parents = opened.manifest["recipe"], dict(opened.manifest["parents"])
    verb, stage, folder = made.get("verb", "?"), made.get("stage", "?"), opened.folder
    home = folder.parent if stage == "split" else _home(folder)
    recipe = home / "recipe" / (f"split{made['seed']}.json" if stage == "split" else f"{stage}.json")
    words = [f"python scripts/{verb}.py --recipe {recipe}"]
    branches = [v for k, v in parents.items() if k.startswith("branch")]
    if branches:
        words.append(f"--models {Path(branches[0]).parent}")
    words += [f"--{k} {v}/{artefact.MANIFEST}" for k, v in parents.items() if not k.startswith("branch")]
    words += [f"--{k} {opened.manifest[k]}" for k in ("index", "part") if opened.manifest.get(k) is not None]
    return " ".join([*words, f"--out {folder / artefact.MANIFEST}"])


def _home(folder: Path) -> Path:
    parts = [p for p in folder.parts if p != "metrics"]
    depth = next((i for i, p in enumerate(parts) if p.startswith("seed")), len(parts) - 1)
    return Path(*parts[: depth + 1])


def _text(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        options = ",".join(f"{k}={_text(v)}" for k, v in value.items() if k != "name")
        return f"{value['name']}({options})" if options else value["name"]
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if v not in UNTOLD}
    return value if isinstance(value, str) else json.dumps(value)
