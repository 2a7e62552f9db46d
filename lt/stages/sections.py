"""params.yaml in pieces, for DVC: what a recipe is made of lies in one small file, which is cheap to compare.

DVC parses a stage's parameter file once for every stage; with a thousand recipes that is minutes for a `status`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lt import artefact
from lt.config import Config, load


def sections(config: Config) -> dict[str, Any]:
    """File name -> content: what data sets say, what tables say, and for each recipe all recipes behind it."""
    params = config.params
    tables = {name: table.model_dump() for name, table in params.tables.items()}
    found: dict[str, Any] = {
        "datasets": {"datasets": params.datasets, "overlays": params.overlays},
        "tables": {"seeds": params.seeds, "tables": tables},
    }
    for method in params.recipes:
        found[f"recipes/{method}"] = {name: config.recipe(name) for name in behind(config, method)}
    return found


def behind(config: Config, method: str) -> list[str]:
    """The recipe, what it extends, and those that its stages are shared from."""
    found: dict[str, None] = {}
    waiting = [method]
    while waiting:
        for name in config.ancestry(waiting.pop()):
            if name in found:
                continue
            found[name] = None
            for _, layer in config.own_layers(name):
                uses = [str(b["use"]) for b in (layer.get("stages") or {}).values() if b and "use" in b]
                waiting += [use.split(":")[-1].split("/")[0] for use in uses]
    return sorted(found)


def params(*, out: str) -> None:
    """Write the pieces, and nothing beside them."""
    root, files = Path(out), sections(load())
    if root.is_dir():
        shutil.rmtree(root)
    for name, content in files.items():
        artefact.write_text(root / f"{name}.json", artefact.dump(content))
