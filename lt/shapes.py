"""Which keys of the layers hold text, lists or mappings: checked before anything walks them.

A shape is a function `(value, place) -> problems`. Keys that no shape names are left to `lt.checks` and the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lt.schema import Params

Shape = Callable[[Any, str], Iterator[str]]


def shown(value: Any) -> str:
    """A value in a message: what it is, and itself while it is short."""
    if isinstance(value, str):
        return f"the text '{value}'"
    if value is None:
        return "nothing"
    kinds = {bool: "", list: "the list ", tuple: "the list ", dict: "the mapping "}
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return kinds.get(type(value), "") + (text if len(text) <= 60 else f"{text[:57]}...")


def hint(value: Any) -> str:
    """YAML 1.1 reads `1e-4` as text."""
    try:
        float(value)
    except (TypeError, ValueError):
        return ""
    return "; write 1.0e-4, not 1e-4" if isinstance(value, str) and "e" in value.lower() else ""


def _a(kind: type, what: str) -> Shape:
    def check(value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, kind):
            yield f"{place}: expected {what}, found {shown(value)}"

    return check


text, truth = _a(str, "text"), _a(bool, "true or false")


def names(value: Any, place: str) -> Iterator[str]:
    """A name, or a list of names."""
    if not isinstance(value, str) and not _are_texts(value):
        yield f"{place}: expected a name or a list of names, found {shown(value)}"


def list_of_names(value: Any, place: str) -> Iterator[str]:
    if not _are_texts(value):
        yield f"{place}: expected a list of names, found {shown(value)}"


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def each(inner: Shape, what: str = "a mapping") -> Shape:
    """A mapping of names to one shape."""
    return _mapping(lambda key: inner, what)


def fields(what: str = "a mapping", **shapes: Shape) -> Shape:
    """A mapping some of whose keys are known."""
    return _mapping(shapes.get, what)


def _mapping(shape_of: Callable[[str], Shape | None], what: str) -> Shape:
    """An entry that is empty (`train:`) says nothing."""

    def check(value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{place}: expected {what}, found {shown(value)}"
            return
        for key, entry in value.items():
            if not isinstance(key, str):
                yield f"{place}: expected names as keys, found {shown(key)}; put it in quotes"
            elif entry is not None and (inner := shape_of(key)):
                yield from inner(entry, f"{place}.{key}")

    return check


def published(value: Any, place: str) -> Iterator[str]:
    """The method whose published number a row is held to, or one for each stage."""
    yield from (each(text) if isinstance(value, dict) else text)(value, place)


STAGES = each(fields(verb=text, use=text), "a mapping of stages")
LAYER = {"source": text, "verified": truth, "note": text, "undertrained": truth, "stages": STAGES}
INNER = fields(**LAYER)
SETS = each(fields(**LAYER, arch=names, archs=each(INNER, "a mapping of networks")), "a mapping of data sets")
RUNS = each(INNER, "a mapping of runs")
META = {"paper": text, "title": text, "report": text, "why_not": text, "published": published}
RECIPE = fields(**LAYER, **META, extends=text, sets=SETS, runs=RUNS)
DATASET = fields(extends=text, source=text, family=text, note=text, source_of_numbers=text)


def problems(params: Params) -> Iterator[str]:
    """One line for each value of a layer that is no mapping, list or text where one is needed."""
    yield from each(DATASET)(params.datasets, "datasets")
    yield from each(RECIPE)(params.recipes, "recipes")
    for name, crossing in params.crossings.items():
        place = f"crossings.{name}"
        yield from RECIPE(crossing.recipe, f"{place}.recipe")
        yield from each(each(RECIPE))(crossing.parts, f"{place}.parts")
        for i, entry in enumerate(crossing.where):
            yield from RECIPE(entry.then, f"{place}.where.{i}.then")
    yield from each(each(fields()))(params.overlays, "overlays")
