from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lt.figures import style


def hm_gm_against_mean(path: str | Path, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """HM and GM against mean class accuracy, all in percent: {method: {mean, hm, gm}}."""
    with style.drawing(path, columns=2, width=style.PAGE, height=2.6, sharex=True) as panels:
        for axes, key, label in zip(panels, ("hm", "gm"), ("harmonic", "geometric"), strict=True):
            for i, (name, values) in enumerate(methods.items()):
                (x, dx), (y, dy) = (style.value_and_spread(values.get(k)) for k in ("mean", key))
                look = style.line(i) | {"linestyle": "none"}
                axes.errorbar(x, y, dy or None, dx or None, elinewidth=0.7, label=name, **look)
            axes.set(xlabel="mean class accuracy (%)", ylabel=f"{label} mean (%)")
            axes.margins(0.12)
        style.legend(panels[0], len(methods))
