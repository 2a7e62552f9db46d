from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lt.figures import style


def cost_against_accuracy(
    path: str | Path,
    methods: Mapping[str, Mapping[str, Any]],
    *,
    cost: str = "GMACs an image",
    log: bool = True,
) -> None:
    """{method: {cost, accuracy}}, accuracy in percent, a number or (number, half width)."""
    with style.drawing(path, height=2.8) as axes:
        for i, (name, values) in enumerate(methods.items()):
            y, dy = style.value_and_spread(values["accuracy"])
            look = style.line(i) | {"linestyle": "none"}
            axes.errorbar(values["cost"], y, dy or None, elinewidth=0.7, label=name, **look)
        axes.set(xlabel=cost, ylabel="accuracy (%)", xscale="log" if log else "linear")
        if log:
            style.plain_log_ticks(axes.xaxis)
        axes.margins(0.1)
        style.legend(axes, len(methods))
