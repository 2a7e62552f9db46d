"""`lt recipes list`, `lt recipes show RUN`: what there is, and where every number comes from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from lt.config import Config, Run, load
from lt.errors import UserError
from lt.registry import arch_module


def arguments(parser: argparse.ArgumentParser) -> None:
    inner = parser.add_subparsers(dest="what", required=True)
    inner.add_parser("list", help="recipes, their papers and the data sets they name")
    show = inner.add_parser("show", help="the resolved numbers of a run")
    show.add_argument("run", help="<dataset>/<method>[/<arch>[/seed<k>]], as digits/btm")
    show.add_argument("--stage", help="this stage only")


def main(given: argparse.Namespace) -> None:
    config = load()
    lines = listing(config) if given.what == "list" else shown(config, complete(config, given.run), given.stage)
    print("\n".join(lines))


def listing(config: Config) -> Iterator[str]:
    """A block a recipe: title, paper, stages; one line a data set or family."""
    for method in config.params.recipes:
        stages = " -> ".join(s for s in config.stage_names(method) if s not in ("predict", "evaluate"))
        yield f"{method:23} {config.meta(method, 'title', '')}  [{config.meta(method, 'paper')}]  {stages}"
        for key, entry in _sets(config, method).items():
            archs = entry.get("arch", "")
            archs = archs if isinstance(archs, str) else ", ".join(archs)
            mark = "verified" if entry.get("verified") else "unverified"
            yield f"    {key:20} {archs:30} {mark:11} {entry.get('source') or 'no source'}"


def _sets(config: Config, method: str) -> dict[str, dict[str, Any]]:
    """The data sets and families that a recipe names, its parents' included, with what holds for each."""
    chain, only = config.ancestry(method), config.meta(method, "only")
    keys = dict.fromkeys(key for name in chain for key in config.recipe(name).get("sets") or {})
    layers = {key: config.set_keys(key) if config.has_dataset(key) else [key] for key in keys}
    return {k: _said(config, chain, of) for k, of in layers.items() if only is None or {*of} & {*only}}


def _said(config: Config, chain: list[str], keys: list[str]) -> dict[str, Any]:
    """Networks and source of a data set or family, layer over layer as `Config.stage` resolves them."""
    found: dict[str, Any] = {}
    for body in map(config.recipe, chain):
        sets = body.get("sets") or {}
        for layer in (body, *(sets.get(key) or {} for key in keys)):
            found |= {k: layer[k] for k in ("arch", "source", "verified") if k in layer}
    return found


def complete(config: Config, text: str) -> Run:
    """A run from its first parts: the recipe's first network and seed 0 where they are left out."""
    parts = text.strip("/").split("/")
    if len(parts) not in (2, 3, 4):
        return Run.parse(text)
    dataset, method = parts[:2]
    config.dataset(dataset)
    config.recipe(method)
    if len(parts) == 2:
        archs = config.archs(method, dataset)
        if not archs:
            known = ", ".join(_sets(config, method)) or "none"
            raise UserError(f"recipes.{method}: names no network for '{dataset}'; its data sets: {known}")
        parts.append(archs[0])
    if len(parts) == 3:
        parts.append("seed0")
    return Run.parse("/".join(parts))


def shown(config: Config, run: Run, only: str | None = None) -> Iterator[str]:
    """Every stage with every number that is set, its origin, and the source that the recipe states."""
    arch_module(run.arch)
    if why := config.cells.senseless.get(run.method):
        raise UserError(f"{run.method}: no such run: {why}")
    yield f"run {run}   paper {config.meta(run.method, 'paper')}   reports {config.final_stage(run.method)}"
    if run.arch not in (named := config.archs(run.method, run.dataset)):
        there = ", ".join(named) or "none"
        yield f"note: recipes.{run.method} does not name {run.arch} for '{run.dataset}'; its networks there: {there}"
    yield from _data(config, run.dataset)
    for name in [only] if only else config.stages_of(run):
        yield from _stage(config, run, name)


def _data(config: Config, name: str) -> Iterator[str]:
    """The data set's numbers; `extends` takes over whole entries."""
    base, _ = config.split_overlay(name)
    own = config.params.datasets[base]
    source = own.get("source_of_numbers")
    yield f"\ndata   ({base})" + (f"   source: {source}" if source else "")
    for key, value in config.dataset(name).model_dump(exclude_none=True).items():
        if value == "":
            continue
        place = next((at for at in (base, own.get("extends")) if at and key in config.params.datasets[at]), None)
        leaves = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        for leaf, inner in leaves.items():
            said = place and (leaf == key or leaf.split(".")[1] in config.params.datasets[place][key])
            yield f"  {leaf:20} {_text(inner):40} {f'{config.file}: datasets.{place}.{leaf}' if said else 'default'}"


def _stage(config: Config, run: Run, name: str) -> Iterator[str]:
    home, inner = config.home(run, name)
    stage = config.stage(home, inner)
    verified = "verified" if stage.verified else "not verified"
    shared = f"   shared: {home}/{inner}" if (home, inner) != (run, name) else ""
    yield f"\n{name}   ({stage.verb})   source: {stage.source or 'none stated'} ({verified}){shared}"
    values = stage.params.model_dump()
    for key, value in values.items():
        if key == "verb":
            continue
        origin = stage.origin.get(key)
        where = f"{config.file}: {origin}.{key}" if _bare(origin) else f"{config.file}: {origin}.stages.{inner}.{key}"
        yield f"  {key:17} {_text(value):43} {where if origin else 'default'}"


def _bare(origin: str | None) -> bool:
    """An overlay's layer names its verb, not a stage."""
    return bool(origin) and origin.startswith("overlays.")


def _text(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        options = ", ".join(f"{k}={json.dumps(v)}" for k, v in value.items() if k != "name")
        return f"{value['name']}({options})" if options else value["name"]
    return value if isinstance(value, str) else json.dumps(value)
