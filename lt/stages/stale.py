"""Results that today's parameters and code would not give, by what lies there and by no driver's records.

Snakemake learns from its own records that a parameter changed. It has none of results that were copied from elsewhere,
and blind ones after `snakemake --touch`: a recipe file is held against what it would say now, and so is an artefact.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lt import artefact

LISTED = ("code", "data", "lists", "seed")
NUMBERED = {"branch": "branches/branch*", "subset": "subsets/subset*"}


def outdated(recipe: str | Path, now: Callable[[], dict[str, Any]]) -> list[str]:
    """What is there and must be made again: a recipe file that does not say `now()`, or artefacts made by another."""
    path = Path(recipe)
    there, made = path.exists(), [manifest for manifest in made_by(path) if manifest.exists()]
    if not there and not made:
        return []
    asked = json.loads(json.dumps(now()))
    if there and _read(path) != asked:
        return [str(path)]
    return [str(manifest) for manifest in made if made_by_another(manifest, asked)]


def made_by(recipe: Path) -> list[Path]:
    """The manifests of what `<home>/recipe/<stage>.json` makes; they need not be there."""
    home, stage = recipe.parent.parent, recipe.stem
    if stage.startswith("pack_"):
        folders = [home / "pack" / stage.removeprefix("pack_")]
    elif stage == "predict":
        folders = list(home.glob("predictions/*/*"))
    elif stage == "evaluate":
        folders = list(Path("results/metrics", *home.parts[1:]).glob("*"))
    elif stage in NUMBERED:  # one that comes from a file has a recipe of its own
        folders = [f for f in home.glob(NUMBERED[stage]) if not (recipe.parent / f"{f.name}.json").exists()]
    else:
        folders = [home / stage, home / "branches" / stage]
    return [folder / artefact.MANIFEST for folder in folders]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def made_by_another(manifest: Path, now: dict[str, Any]) -> bool:
    """Was this artefact made by another recipe? If it is damaged, whoever reads it says so."""
    try:
        return not same(_read(manifest)["recipe"], now)
    except (KeyError, TypeError, AttributeError):
        return False


def same(made: dict[str, Any], now: dict[str, Any]) -> bool:
    """Do two recipes ask for the same work? What was made may say more: a merged network tells what it is made of."""
    agree = all(made.get(key) == now.get(key) for key in LISTED)
    return agree and now["params"].items() <= made["params"].items()
