"""What is wrong with `grid`, the part of params.yaml that dvc.yaml's stages are multiplied by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt import registry, shapes
from lt.errors import UserError, nearest
from lt.schema import Grid, Run

if TYPE_CHECKING:
    from lt.config import Config

# Lists of something else than methods.
OTHER = {*Grid.model_fields, "vits", "mae_datasets", "mislas_nodes", "branches", "btm_nodes", "branch_nodes"}
BRANCHED = ("btm", "btm_merged", "btm_drawn")


def problems(config: Config) -> Iterator[str]:
    grid = config.params.grid
    if grid is None:
        return
    extra = grid.model_extra or {}
    if wrong := [*_shapes(extra), *_unread(config.file, extra)]:
        yield from wrong
        return
    for key, names in (("archs", grid.archs), ("vits", extra.get("vits", []))):
        for name in names:
            if name not in registry.archs():
                yield f"grid.{key}: {name}: no such network{nearest(name, registry.archs())}"
    for key, names in (("datasets", grid.datasets), ("mae_datasets", extra.get("mae_datasets", []))):
        for name in names:
            if not config.has_dataset(name):
                yield f"grid.{key}: {name}: no such data set{nearest(name, config.params.datasets)}"
                return
    for name in grid.packs:
        if not config.has_dataset(name) or not config.dataset(name).pack:
            yield f"grid.packs: {name}: no data set with `pack:`{nearest(name, config.params.datasets)}"
    for key, names in extra.items():
        if key in OTHER:
            continue
        for name in names:
            if name not in config.params.recipes:
                yield f"grid.{key}: {name}: no such recipe{nearest(name, config.params.recipes)}"
                return
    for table in [*grid.tables, *(figure.table for figure in grid.figures.values())]:
        try:
            config.table(table)
        except UserError as error:
            yield f"grid: {str(error).removeprefix(f'{config.file}: ')}"
    yield from _branches(config, grid)


def _shapes(extra: dict[str, Any]) -> Iterator[str]:
    for key, names in extra.items():
        if key != "branches":
            yield from shapes.list_of_names(names, f"grid.{key}")
        elif not isinstance(names, list) or not all(type(number) is int for number in names):
            yield f"grid.{key}: expected a list of whole numbers, found {shapes.shown(names)}"


def _unread(file: str, extra: dict[str, Any]) -> Iterator[str]:
    """Lists that no stage of dvc.yaml, beside params.yaml, is multiplied by."""
    graph = Path(file).with_name("dvc.yaml")
    if extra and graph.is_file():
        known = set(re.findall(r"\$\{grid\.(\w+)\}", graph.read_text(encoding="utf-8"))) | set(Grid.model_fields)
        for key in extra:
            if key not in known:
                yield f"grid.{key}: no stage of {graph.name} is multiplied by this list{nearest(key, known)}"


def _branches(config: Config, grid: Grid) -> Iterator[str]:
    """dvc.yaml cannot count: `branches` lists the numbers that the recipes' merge counts to."""
    extra = grid.model_extra or {}
    listed = extra.get("branches", [])
    for dataset in grid.datasets:
        for method in (m for key in BRANCHED for m in extra.get(key, [])):
            for arch in grid.archs:
                try:
                    count = config.stage(Run(dataset, method, arch, 0), "merge").params.count
                except UserError:
                    continue  # no recipe for this network: its stage says so
                if listed != list(range(count)):
                    yield f"grid.branches: {listed}: {method} on {dataset} merges {count}; list {list(range(count))}"
                    return
