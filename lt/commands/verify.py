"""`lt verify`: re-hash artefacts, hold them against their parents, make the tables again and compare.

A folder that `lt publish` wrote is held against the digests in its made.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lt import artefact, tables
from lt.commands.publish import published_problems
from lt.errors import UserError
from lt.stages.stale import same

BESIDE = {artefact.MANIFEST, artefact.RUN, ".snakemake_timestamp"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", nargs="?", default="results", type=Path, help="folder to check (results)")


def main(given: argparse.Namespace) -> None:
    if not given.root.is_dir():
        raise UserError(f"{given.root}: no such folder")
    home, root = place(given.root)
    if home != Path.cwd():
        print(f"in {home}:")
    with contextlib.chdir(home):
        found = list(manifests(root))
        made = sorted(p for at in (root, root / "results") for p in (at / "tables").glob("*.csv") if "." not in p.stem)
        notes = sorted(root.rglob("made.md"))
        problems = [line for path in found for line in artefact_problems(path)]
        problems += [line for path in made for line in table_problems(path)]
        problems += [line for path in notes for line in published_problems(path)]
        absent = absent_parents(found)
    counts = [f"{len(found)} artefacts", f"{len(made)} tables"]
    counts += [f"{len(notes)} published"] if notes else []
    print("\n".join([*absent, *problems, ", ".join([*counts, f"{len(problems)} problems"])]))
    if problems:
        raise UserError(f"{given.root}: {len(problems)} problems; delete what is named and run its stage again")


def place(root: Path) -> tuple[Path, Path]:
    """The project that a folder belongs to, and the folder as seen from there: manifests say results/..."""
    whole = Path(os.path.abspath(root))  # a link is followed by no one: results/ may be one
    if not (whole / "results").is_dir():
        for each in (whole, *whole.parents):
            if each.name == "results":
                return each.parent, whole.relative_to(each.parent)
        if next(manifests(whole), None):
            raise UserError(f"{root}: expected a folder named results, or one in it: its manifests say results/...")
    here = Path.cwd()
    return (whole, Path(".")) if (whole / "results").is_dir() else (here, root)


def manifests(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(n for n in inner if not n.startswith("."))
        if artefact.MANIFEST in names:
            yield Path(folder, artefact.MANIFEST)


def artefact_problems(path: Path) -> list[str]:
    """What was changed, is missing or was added since the commit, and parents that are no longer the same."""
    try:
        opened = artefact.read(path, verify=False)
    except UserError as error:
        return [str(error)]
    found: list[str] = []
    for look in (artefact.Artefact.check, _added, _parent_problems, _recipe_problems, _facts_problems):
        try:
            found += look(opened)
        except UserError as error:
            found.append(str(error))
        except (KeyError, TypeError, AttributeError, OSError) as error:
            found.append(f"{path}: damaged ({type(error).__name__}: {error}); delete {path.parent} and run it again")
    return found


def _added(opened: artefact.Artefact) -> list[str]:
    known = {*opened.manifest["outputs"], *BESIDE}
    there = (p.relative_to(opened.folder).as_posix() for p in opened.folder.rglob("*") if p.is_file())
    return [f"{opened.folder / name}: not part of the artefact" for name in sorted(set(there) - known)]


def _parent_problems(opened: artefact.Artefact) -> list[str]:
    problems = []
    for name, folder in opened.manifest["parents"].items():
        parent = Path(folder) / artefact.MANIFEST
        if parent.exists() and artefact.sha256(parent) != opened.manifest["inputs"][name]:
            problems.append(f"{opened.folder}: stale: {name} ({folder}) is not what it was made from")
    return problems


def absent_parents(found: list[Path]) -> list[str]:
    """A note for each artefact that others were made from and that is not here: perhaps deleted to save space."""
    children: dict[str, int] = {}
    for path in found:
        with contextlib.suppress(UserError):
            for folder in dict.fromkeys(artefact.read(path, verify=False).manifest["parents"].values()):
                if not Path(folder, artefact.MANIFEST).exists():
                    children[folder] = children.get(folder, 0) + 1
    return [f"note: {folder}: not here; {n} made from it cannot be held against it" for folder, n in children.items()]


def _recipe_problems(opened: artefact.Artefact) -> list[str]:
    """The recipe file beside an artefact must be the one that it was made by."""
    made, stage = opened.manifest["recipe"], opened.manifest["recipe"].get("stage", "")
    home = opened.folder.parent if stage == "split" else _seed_folder(opened.folder)
    name = f"split{made['seed']}" if stage == "split" else stage
    path = home / "recipe" / f"{name}.json" if home else None
    if path is None or not path.exists():
        return []
    now = artefact.read_json(path, f"; make it again: snakemake --cores all --force {path}", params=dict)
    return [] if same(made, now) else [f"{opened.folder}: stale: {path} says something else than what it was made by"]


def _facts_problems(opened: artefact.Artefact) -> list[str]:
    opened.facts()
    return []


def _seed_folder(folder: Path) -> Path | None:
    for each in (folder, *folder.parents):
        if each.name.startswith("seed"):
            return Path(*(p for p in each.parts if p != "metrics"))
    return None


def table_problems(path: Path) -> list[str]:
    """A table is a function of its recipe and metrics: made again, it must be the same text."""
    recipe = tables.recipe_of(path)
    if not recipe.exists():
        return [f"{path}: no recipe {recipe}; cannot be checked"]
    from lt.stages.tabulate import tabulate

    with tempfile.TemporaryDirectory() as folder:
        try:
            tabulate(recipe, out=Path(folder) / path.name, times=path)
        except UserError as error:
            return [f"{path}: cannot be made again: {error}"]
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            return [f"{path}: cannot be made again from {recipe} ({type(error).__name__}: {error})"]
        again = {each.name: each.read_bytes() for each in Path(folder).iterdir()}
    there = {name: path.with_name(name) for name in again}
    return [
        f"{there[n]}: not what its metrics say"
        for n in again
        if there[n].exists() and there[n].read_bytes() != again[n]
    ]
