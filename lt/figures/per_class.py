from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lt.figures import style


def binned(counts: np.ndarray, values: np.ndarray, *, bins: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Geometric mean size and mean value of the classes in equal steps of log size."""
    kept = ~np.isnan(values) & (counts > 0)
    logs, values = np.log(counts[kept]), values[kept]
    if not len(logs):
        return np.array([]), np.array([])
    edges = np.linspace(logs.min(), logs.max() + 1e-9, bins + 1)
    index = np.clip(np.digitize(logs, edges) - 1, 0, bins - 1)
    number = np.bincount(index, minlength=bins)
    used = number > 0
    x = np.bincount(index, logs, bins)[used] / number[used]
    return np.exp(x), np.bincount(index, values, bins)[used] / number[used]


def accuracy_by_size(
    path: str | Path, methods: Mapping[str, np.ndarray], *, class_counts: np.ndarray, points: int = 200
) -> None:
    """Class accuracy (fractions [C]) against class size: means over log bins; points up to 200 classes."""
    counts = np.asarray(class_counts, np.float64)
    with style.drawing(path, height=2.8) as axes:
        for i, (name, accuracy) in enumerate(methods.items()):
            percent = 100 * np.asarray(accuracy, np.float64)
            if len(counts) <= points:
                look = {"color": style.colour(i), "marker": style.MARKERS[i % len(style.MARKERS)]}
                axes.scatter(counts, percent, s=5, alpha=0.35, linewidths=0, **look)
            axes.plot(*binned(counts, percent), label=name, **style.line(i))
        axes.set(xscale="log", xlabel="training images of the class", ylabel="accuracy of the class (%)")
        style.plain_log_ticks(axes.xaxis)
        axes.set_ylim(-2, 102)
        style.legend(axes, len(methods))
