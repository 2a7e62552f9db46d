from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lt.figures import style

GROUPS = ("many", "medium", "few")


def group_bars(path: str | Path, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Many, medium and few in percent; a value is a number or (number, half width of its interval)."""
    with style.drawing(path, width=style.COLUMN if len(methods) <= 4 else style.PAGE) as axes:
        width = 0.8 / max(len(methods), 1)
        for i, (name, values) in enumerate(methods.items()):
            pairs = [style.value_and_spread(values.get(group)) for group in GROUPS]
            x = [g - 0.4 + (i + 0.5) * width for g in range(len(GROUPS))]
            heights = [mean for mean, _ in pairs]
            axes.bar(x, heights, 0.92 * width, label=name, **style.bar(i))
            axes.errorbar(x, heights, style.errors(pairs), fmt="none", ecolor="black", elinewidth=0.7)
        axes.set_xticks(range(len(GROUPS)), GROUPS)
        axes.set_ylabel("accuracy (%)")
        axes.grid(visible=False, axis="x")
        style.legend(axes, len(methods))
