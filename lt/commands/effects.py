"""`lt effects TABLE`: what each part of a crossing adds, from the cells that differ in it alone."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from lt import stats, tables
from lt.config import load
from lt.errors import UserError, nearest

Place = tuple[str, str]  # data set, network
Parts = Mapping[str, str]  # axis -> part, of a cell
Values = dict[tuple[Place, str], dict[int, float]]  # of a cell there, by seed
Pair = tuple[dict[int, float], dict[int, float]]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="a crossing's table, as results/tables/crossed.csv")
    parser.add_argument("--metric", default="top1", help="a column of the table (top1)")
    parser.add_argument("--by", nargs="+", default=[], metavar="AXIS", help="apart for every part of these axes")


def main(given: argparse.Namespace) -> None:
    config = load()
    values = read(given.table, given.metric)
    methods = {method for _, method in values}
    parts = next((cells for cells in config.cells.parts.values() if methods & cells.keys()), None)
    if parts is None:
        raise UserError(f"{given.table}: no cell of a crossing; crossings: {', '.join(config.cells.parts) or 'none'}")
    print("\n".join(lines(values, {cell: parts[cell] for cell in parts if cell in methods}, given)))


def read(table: Path, metric: str) -> Values:
    """What every seed measured; a run that is missing is left out."""
    found: Values = {}
    for row in tables.read(table, metric):
        if row["seed"] == "mean" or not row[metric]:
            continue
        value, seed = _number(table, metric, row[metric], float), _number(table, "seed", row["seed"], int)
        found.setdefault(((row["set"], row["arch"]), row["method"]), {})[seed] = value
    return found


def _number(table: Path, column: str, text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{table}: column '{column}': expected numbers, got '{text}'") from None


def lines(values: Values, parts: Mapping[str, Parts], given: argparse.Namespace) -> Iterator[str]:
    """One line for any two parts of an axis that some cells differ in alone."""
    axes = list(next(iter(parts.values())))
    for axis in given.by:
        if axis not in axes:
            raise UserError(f"--by {axis}: no such axis{nearest(axis, axes)}")
    yield f"{given.metric}: second part minus first, averaged over the pairs within a seed; 95 % interval over seeds"
    rows = [("axis", "parts", " ".join(given.by), "pairs", "adds", "95 % interval")]
    for axis in [axis for axis in axes if axis not in given.by]:
        options = dict.fromkeys(each[axis] for each in parts.values())
        for within in dict.fromkeys(tuple(each[by] for by in given.by) for each in parts.values()):
            cells = {c: each for c, each in parts.items() if tuple(each[by] for by in given.by) == within}
            for a, b in itertools.combinations(options, 2):
                if pairs := list(differing(values, cells, axis, a, b)):
                    s = effect(pairs)
                    adds = f"{s.mean:+.2f}" if s.n else ""
                    interval = f"{s.low:+.2f} to {s.high:+.2f}" if s.n > 1 else f"{s.n or 'no'} seed in common"
                    rows.append((axis, f"{a} -> {b}", " ".join(within), str(len(pairs)), adds, interval))
    width = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, width, (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust, str.ljust), strict=True)
        yield "  ".join(align(text, w) for text, w, align in cells).rstrip()


def differing(values: Values, parts: Mapping[str, Parts], axis: str, a: str, b: str) -> Iterator[Pair]:
    """What two cells measured on one data set and network that are equal but for this axis."""
    of = {tuple(each.items()): cell for cell, each in parts.items()}
    for first in [cell for cell, each in parts.items() if each[axis] == a]:
        second = of.get(tuple({**parts[first], axis: b}.items()))
        for place in dict.fromkeys(place for place, method in values if method == first):
            if (place, second) in values:
                yield values[place, first], values[place, second]


def effect(pairs: list[Pair]) -> stats.Summary:
    """The mean difference of a seed over all pairs, summed up over the seeds that every cell has."""
    seeds = set.intersection(*({*first} & {*second} for first, second in pairs))
    return stats.summary(sum(b[s] - a[s] for a, b in pairs) / len(pairs) for s in sorted(seeds))
