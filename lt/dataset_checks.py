"""What is wrong with `datasets`: names, sources, imbalance rules, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lt import registry
from lt.errors import UserError, nearest
from lt.names import unusable
from lt.schema import Dataset
from lt.stage_checks import statistics

if TYPE_CHECKING:
    from lt.config import Config


def problems(config: Config) -> Iterator[str]:
    known = config.params.datasets
    for name, body in known.items():
        place = f"datasets.{name}"
        if line := unusable(name):
            yield f"{place}: {line}"
            continue
        parent = body.get("extends")
        if parent is not None and parent not in known:
            yield f"{place}.extends: no such data set{nearest(parent, known)}"
            continue
        if parent is not None and known[parent].get("extends"):
            yield f"{place}.extends: {parent} extends {known[parent]['extends']} itself; extend that one"
            continue
        try:
            dataset = config.dataset(name)
        except UserError as error:
            yield from (line.removeprefix(f"{config.file}: ") for line in str(error).splitlines())
            continue
        yield from (f"{place}.{line}" for line in _values(dataset))


def _values(dataset: Dataset) -> Iterator[str]:
    sources = registry.names("lt.data.sources", "SOURCES")
    if dataset.source not in sources:
        yield f"source: no such source '{dataset.source}'{nearest(dataset.source, sources)}"
    if made := dataset.imbalance:
        rules = registry.names("lt.data.splits", "RULES")
        if made.rule not in rules:
            yield f"imbalance.rule: no such rule '{made.rule}'{nearest(made.rule, rules)}"
        elif made.imb_factor is None:
            yield f"imbalance.imb_factor: missing; rule '{made.rule}' needs the largest class over the smallest, as 100"
    yield from (f"{key}: {line}" for key, line in statistics(dataset.image, "image"))
