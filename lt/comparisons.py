"""Planned comparisons between methods: paired over seeds, one Holm correction over the whole table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lt import stats
from lt.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("set", "arch", "metric", "a", "b", "seeds", "difference", "low", "high", "p", "p_holm")


def comparisons(
    rows: Iterable[Mapping[str, Any]],
    pairs: Sequence[tuple[str, str]],
    *,
    metrics: Sequence[str] = ("top1",),
    test: str = "t",
) -> pd.DataFrame:
    """`a` minus `b` for each named pair, data set, architecture and metric; `rows` as for `lt.tables.tabulate`.

    Below five common seeds the 95 % interval stands alone: p and p_holm are None.
    """
    import pandas as pd

    values = _by_place([row for row in rows if row.get("metrics")], metrics)
    known = {method for _, method in values}
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if name not in known:
            raise UserError(f"planned comparison: no runs of '{name}'{nearest(name, known)}")
    found, places = [], []
    for place in dict.fromkeys(place for place, _ in values):
        for a, b in pairs:
            if (place, a) in values and (place, b) in values:
                found.append(stats.compare(values[place, a], values[place, b], names=(a, b), test=test))
                places.append(place)
    adjusted = stats.holm([c.p for c in found])
    out = [
        (*place, c.a, c.b, c.n, c.difference, c.low, c.high, c.p, p)
        for place, c, p in zip(places, found, adjusted, strict=True)
    ]
    frame = pd.DataFrame(out, columns=list(COLUMNS), dtype=object)
    return frame.where(frame.notna(), None)


def _by_place(
    rows: list[Mapping[str, Any]], metrics: Sequence[str]
) -> dict[tuple[tuple[str, str, str], str], dict[int, float]]:
    """{((set, arch, metric), method): {seed: value}}."""
    values: dict[tuple[tuple[str, str, str], str], dict[int, float]] = {}
    for row in rows:
        for metric in metrics:
            value = row["metrics"].get(metric)
            if value is not None:
                key = (row["dataset"], row["arch"], metric), row["method"]
                values.setdefault(key, {})[row["seed"]] = value
    return values
