from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lt.figures import style


def loss_ablation(
    path: str | Path, losses: Mapping[str, Any], *, metric: str = "accuracy (%)", reference: str | None = None
) -> None:
    """One bar a loss, in the order given; a dotted line at the reference loss."""
    names = list(losses)
    pairs = [style.value_and_spread(losses[name]) for name in names]
    with style.drawing(path, height=0.7 + 0.24 * max(len(names), 1)) as axes:
        y = range(len(names))
        means = [mean for mean, _ in pairs]
        axes.barh(y, means, 0.7, **style.bar(0))
        axes.errorbar(means, y, xerr=style.errors(pairs), fmt="none", ecolor="black", elinewidth=0.7)
        finite = [(m - h, m + h) for m, h in pairs if m == m]
        if finite:
            low, high = min(a for a, _ in finite), max(b for _, b in finite)
            start = max(0.0, math.floor(low - 0.35 * (high - low) - 1))
            axes.set_xlim(start, high + 0.25 * (high - low) + 1)
            metric += f", axis from {start:g}" if start else ""
        for i, (mean, half) in enumerate(pairs):
            place = {"textcoords": "offset points", "va": "center", "fontsize": 6.5}
            if mean == mean:
                axes.annotate(f"{mean:.1f}", (mean + half, i), (3, 0), **place)
        if reference is not None:
            axes.axvline(means[names.index(reference)], color="black", linewidth=0.8, linestyle=":")
        axes.set_yticks(y, names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(metric)
