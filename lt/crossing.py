"""Crossings: a recipe for every combination of parts, from the section `crossings` of params.yaml.

The cell `x_ce_bal_merge_crt` extends the crossing's `recipe`, one part of every axis, then each entry of `where` that
it meets. A stage is made once, by the first cell that has it, and used by all others whose parts are the same up to
the last one that speaks of it or of a stage before it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lt.errors import nearest
from lt.schema import Crossing, Where

Layer = dict[str, Any]


@dataclass
class Cells:
    """`layers`: what the crossings say, place by place; `recipes`: one a cell; `senseless`: cells that are none."""

    layers: dict[str, Layer] = field(default_factory=dict)
    recipes: dict[str, Layer] = field(default_factory=dict)
    senseless: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)  # crossing -> cell -> axis -> part
    names: list[str] = field(default_factory=list)  # of all cells; two that are the same are a mistake


def expand(crossings: dict[str, Crossing]) -> Cells:
    found = Cells()
    for name, crossing in crossings.items():
        found.layers |= _layers(name, crossing)
        made: dict[tuple, str] = {}
        found.parts[name] = {}
        for combination in itertools.product(*crossing.parts.values()):
            cell = "_".join((name, *combination))
            found.names.append(cell)
            found.parts[name][cell] = parts = dict(zip(crossing.parts, combination, strict=True))
            met = [i for i, entry in enumerate(crossing.where) if _meets(entry, parts)]
            places = [f"crossings.{name}.recipe", *(f"crossings.{name}.parts.{a}.{o}" for a, o in parts.items())]
            places += [f"crossings.{name}.where.{i}" for i in met]
            body = {"extends": places, "title": _title(found.layers, places)}
            reasons = [crossing.where[i].why for i in met if crossing.where[i].why]
            if reasons:
                found.senseless[cell], found.layers[cell] = reasons[0], body
                continue
            depth = [0, *range(len(parts)), *(_depth(crossing.where[i], list(parts)) for i in met)]
            said = [found.layers[place] for place in places]
            found.recipes[cell] = body | {"stages": _shared(cell, combination, said, depth, made)}
    return found


def _layers(name: str, crossing: Crossing) -> dict[str, Layer]:
    found = {f"crossings.{name}.recipe": crossing.recipe}
    for axis, options in crossing.parts.items():
        found |= {f"crossings.{name}.parts.{axis}.{option}": body or {} for option, body in options.items()}
    return found | {f"crossings.{name}.where.{i}": entry.then for i, entry in enumerate(crossing.where)}


def _meets(entry: Where, parts: dict[str, str]) -> bool:
    return all(parts.get(axis) in options for axis, options in entry.when.items())


def _depth(entry: Where, axes: list[str]) -> int:
    return max(axes.index(axis) for axis in entry.when if axis in axes)


def _title(layers: dict[str, Layer], places: list[str]) -> str:
    return ", ".join(layers[p]["title"] for p in places if layers[p].get("title"))


def _said(layer: Layer) -> Iterator[tuple[str, Any]]:
    """(stage, body) wherever a layer speaks of a stage."""
    yield from (layer.get("stages") or {}).items()
    for entry in (layer.get("sets") or {}).values():
        yield from _said(entry or {})
        for inner in ((entry or {}).get("archs") or {}).values():
            yield from _said(inner or {})


def _shared(cell: str, combination: tuple, said: list[Layer], depth: list[int], made: dict[tuple, str]) -> Layer:
    """`use` for every stage that an earlier cell makes."""
    found: Layer = {}
    order, last = list(said[0].get("stages") or {}), 0
    for stage in order:
        bodies = [(body, at) for layer, at in zip(said, depth, strict=True) for s, body in _said(layer) if s == stage]
        bodies = bodies[max((i for i, (body, _) in enumerate(bodies) if body is None), default=-1) + 1 :]
        bodies = [(body, at) for body, at in bodies if body]
        if not bodies:
            continue
        last = max(last, *(at for _, at in bodies))
        if "use" in bodies[-1][0]:
            continue
        first = made.setdefault((stage, *combination[: last + 1]), cell)
        if first != cell:
            found[stage] = {"use": f"{first}/{stage}"}
    return found


def problems(crossings: dict[str, Crossing]) -> Iterator[str]:
    """Names of axes, parts and stages that do not fit together."""
    for name, crossing in crossings.items():
        place, stages = f"crossings.{name}", crossing.recipe.get("stages") or {}
        if not crossing.recipe.get("paper"):
            yield f"{place}.recipe.paper: missing; the rules file that holds its graph"
        for where, layer in _layers(name, crossing).items():
            for stage in dict.fromkeys(s for s, _ in _said(layer)):
                if stage not in stages and stage != "evaluate":
                    yield f"{where}.stages.{stage}: no such stage{nearest(stage, stages)}"
            report = layer.get("report")
            if report and report not in stages and not (re.fullmatch(r"branch\d+", report) and "branch" in stages):
                yield f"{where}.report: no such stage '{report}'{nearest(report, stages)}"
        for i, entry in enumerate(crossing.where):
            for axis, options in entry.when.items():
                known = crossing.parts.get(axis)
                if known is None:
                    yield f"{place}.where.{i}.when.{axis}: no such axis{nearest(axis, crossing.parts)}"
                    continue
                for option in options:
                    if option not in known:
                        yield f"{place}.where.{i}.when.{axis}: {option}: no such part{nearest(option, known)}"
