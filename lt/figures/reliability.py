from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lt.figures import style


def reliability(path: str | Path, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """One panel a method from `lt.metrics.calibration`: bin accuracy, and the gap to the mean confidence."""
    n = max(len(methods), 1)
    width = min(style.PAGE, 0.5 + 2.0 * n)
    with style.drawing(path, columns=n, width=width, height=width / n + 0.5, sharey=True, squeeze=False) as panels:
        for axes, (name, bins) in zip(panels[0], methods.items(), strict=False):
            _panel(axes, name, bins)
        panels[0][0].set_ylabel("accuracy")
        handles = panels[0][0].get_legend_handles_labels()
        panels[0][0].figure.legend(*handles, loc="outside lower center", ncols=2)


def _panel(axes: Any, name: str, bins: Mapping[str, Any]) -> None:
    edges = np.asarray(bins["edges"])
    accuracy, confidence, count = (np.asarray(bins[k]) for k in ("accuracy", "confidence", "count"))
    centre, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    used = count > 0
    axes.bar(centre[used], accuracy[used], width[used], color=style.colour(0), label="accuracy", linewidth=0)
    axes.bar(
        centre[used],
        np.abs(accuracy - confidence)[used],
        width[used],
        bottom=np.minimum(accuracy, confidence)[used],
        facecolor="none",
        edgecolor=style.colour(1),
        hatch="////",
        linewidth=0.7,
        label="gap",
    )
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    shares = count / max(count.sum(), 1)
    overall, error = float((accuracy * shares).sum()), float((np.abs(accuracy - confidence) * shares).sum())
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    text = f"ACC {100 * overall:.1f}\nECE {100 * error:.1f}"
    axes.text(0.97, 0.04, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, bbox=box)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=name, aspect="equal")
