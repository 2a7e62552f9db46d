from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lt.figures import style


def tau_sweep(
    path: str | Path,
    taus: Sequence[float],
    metrics: Mapping[str, Sequence[float]],
    *,
    chosen: float | None = None,
) -> None:
    """Metrics in percent against tau; `chosen` (on validation) is marked."""
    with style.drawing(path) as axes:
        for i, (name, values) in enumerate(metrics.items()):
            axes.plot(taus, values, label=name, **style.line(i))
        if chosen is not None:
            axes.axvline(chosen, color="black", linewidth=0.8, linestyle=":")
            axes.annotate(
                f"chosen {chosen:g}",
                (chosen, 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=6.5,
            )
        axes.set(xlabel="tau", ylabel="%")
        style.legend(axes, len(metrics))
