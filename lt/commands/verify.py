"""`lt verify`: re-hash artefacts, hold them against their parents, make the tables again and compare."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lt import artefact
from lt.errors import UserError
from lt.stages.stale import same

BESIDE = {artefact.MANIFEST, artefact.RUN, ".snakemake_timestamp"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", nargs="?", default="results", type=Path, help="folder to check (results)")


def main(given: argparse.Namespace) -> None:
    if not given.root.is_dir():
        raise UserError(f"{given.root}: no such folder")
    count, problems = 0, []
    for path in manifests(given.root):
        count += 1
        problems += artefact_problems(path)
    tables = sorted(p for p in (given.root / "tables").glob("*.csv") if "." not in p.stem)
    for path in tables:
        problems += table_problems(path, given.root)
    print("\n".join([*problems, f"{count} artefacts, {len(tables)} tables, {len(problems)} problems"]))
    if problems:
        raise UserError(f"{given.root}: {len(problems)} problems; delete what is named and run its stage again")


def manifests(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(n for n in inner if not n.startswith("."))
        if artefact.MANIFEST in names:
            yield Path(folder, artefact.MANIFEST)


def artefact_problems(path: Path) -> list[str]:
    """What was changed, is missing or was added since the commit, and parents that are no longer the same."""
    try:
        opened = artefact.read(path, verify=False)
        found = opened.check()
        known = {*opened.manifest["outputs"], *BESIDE}
        there = (p.relative_to(opened.folder).as_posix() for p in opened.folder.rglob("*") if p.is_file())
        found += [f"{opened.folder / name}: not part of the artefact" for name in sorted(set(there) - known)]
        return found + _parent_problems(opened) + _recipe_problems(opened)
    except UserError as error:
        return [str(error)]
    except (KeyError, TypeError, AttributeError, OSError) as error:
        return [f"{path}: damaged ({type(error).__name__}: {error})"]


def _parent_problems(opened: artefact.Artefact) -> list[str]:
    problems = []
    for name, folder in opened.manifest["parents"].items():
        parent = Path(folder) / artefact.MANIFEST
        if parent.exists() and artefact.sha256(parent) != opened.manifest["inputs"][name]:
            problems.append(f"{opened.folder}: stale: {name} ({folder}) is not what it was made from")
    return problems


def _recipe_problems(opened: artefact.Artefact) -> list[str]:
    """The recipe file beside an artefact must be the one that it was made by."""
    made, stage = opened.manifest["recipe"], opened.manifest["recipe"].get("stage", "")
    home = opened.folder.parent if stage == "split" else _seed_folder(opened.folder)
    name = f"split{made['seed']}" if stage == "split" else stage
    path = home / "recipe" / f"{name}.json" if home else None
    if path is None or not path.exists():
        return []
    try:
        now = json.loads(path.read_text())
    except ValueError:
        return [f"{path}: not a recipe"]
    return [] if same(made, now) else [f"{opened.folder}: stale: {path} says something else than what it was made by"]


def _seed_folder(folder: Path) -> Path | None:
    for each in (folder, *folder.parents):
        if each.name.startswith("seed"):
            return Path(*(p for p in each.parts if p != "metrics"))
    return None


def table_problems(path: Path, root: Path) -> list[str]:
    """A table is a function of its recipe and metrics: made again, it must be the same text."""
    recipe = root / "recipes" / f"{path.stem}.json"
    if not recipe.exists():
        return [f"{path}: no recipe {recipe}; cannot be checked"]
    from lt.stages.tabulate import tabulate

    with tempfile.TemporaryDirectory() as folder:
        tabulate(recipe, out=Path(folder) / path.name)
        again = {each.name: each.read_bytes() for each in Path(folder).iterdir()}
    there = {name: path.with_name(name) for name in again}
    return [
        f"{there[n]}: not what its metrics say"
        for n in again
        if there[n].exists() and there[n].read_bytes() != again[n]
    ]
