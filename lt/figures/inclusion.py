from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lt.figures import style


def inclusion_against_p(
    path: str | Path,
    p: np.ndarray,
    samplers: Mapping[str, np.ndarray],
    *,
    expected: Mapping[str, np.ndarray] | None = None,
) -> None:
    """How often each item was drawn, against its p; the exact probability as a line where known."""
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    with style.drawing(path) as axes:
        for i, (name, frequency) in enumerate(samplers.items()):
            look = {"color": style.colour(i), "marker": style.MARKERS[i % len(style.MARKERS)]}
            axes.scatter(p, frequency, s=10, alpha=0.7, linewidths=0, label=name, **look)
            exact = (expected or {}).get(name)
            if exact is not None:
                axes.plot(p[order], np.asarray(exact)[order], **style.line(i, markers=False))
        axes.set(xlabel="p of the item", ylabel="inclusion frequency")
        axes.set_ylim(bottom=0)
        style.legend(axes, len(samplers))
