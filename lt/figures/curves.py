from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lt.figures import style


def training_curves(
    path: str | Path,
    runs: Mapping[str, Mapping[str, np.ndarray]],
    *,
    panels: Mapping[str, str],
    x: str = "epoch",
) -> None:
    """One panel a quantity ({column: axis label}), one curve a run ({column: values}); NaN is skipped."""
    n = max(len(panels), 1)
    width = style.COLUMN if n == 1 else style.PAGE
    with style.drawing(path, columns=n, width=width, squeeze=False) as axes:
        for ax, (column, label) in zip(axes[0], panels.items(), strict=False):
            for i, (name, table) in enumerate(runs.items()):
                if column not in table:
                    continue
                steps, values = np.asarray(table[x], float), np.asarray(table[column], float)
                kept = ~np.isnan(values)
                ax.plot(steps[kept], values[kept], label=name, **style.line(i, markers=kept.sum() <= 12))
            ax.set(xlabel=x, ylabel=label)
        style.legend(axes[0][0], len(runs))
