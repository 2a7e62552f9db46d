"""One look for every figure: for print, grey and colour-blind readers; the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt.errors import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette; series also differ by marker, dash and hatch, to be told apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
COLUMN, PAGE = 3.4, 7.0  # inches: one column, the page

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "hatch.linewidth": 0.4,
    "errorbar.capsize": 2,
    "savefig.dpi": 200,
    "svg.hashsalt": "lt",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}
METADATA = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
}


@contextmanager
def drawing(
    path: str | Path,
    *,
    columns: int = 1,
    rows: int = 1,
    width: float = COLUMN,
    height: float = 2.4,
    **more: Any,
) -> Iterator[Any]:
    """Yields the axes (an array for several) and saves on leaving; no pyplot, no global state."""
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in METADATA:
        raise UserError(f"figure '{path.name}': unknown format '{path.suffix}'{nearest(path.suffix, METADATA)}")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(rows, columns, **more)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=METADATA[path.suffix])


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def line(index: int, *, markers: bool = True) -> dict[str, Any]:
    """Look of the index-th curve; colour, dash and marker repeat with different periods."""
    look: dict[str, Any] = {"color": colour(index), "linestyle": DASHES[index % len(DASHES)]}
    return look | ({"marker": MARKERS[index % len(MARKERS)], "markeredgewidth": 0} if markers else {})


def bar(index: int) -> dict[str, Any]:
    look = {"color": colour(index), "hatch": HATCHES[index % len(HATCHES)]}
    return look | {"edgecolor": "white", "linewidth": 0}


def value_and_spread(value: Any) -> tuple[float, float]:
    """A number, or (number, half width of its interval); None is NaN."""
    pair = value if isinstance(value, tuple | list) else (value, 0.0)
    mean, half = (float("nan") if v is None else float(v) for v in pair)
    return mean, 0.0 if half != half else half


def errors(pairs: list[tuple[float, float]]) -> list[float]:
    """Half widths for `errorbar`; without one nothing is drawn."""
    return [half or float("nan") for _, half in pairs]


def plain_log_ticks(axis: Any) -> None:
    """1, 2, 5, 10, ... written as numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes, count: int, **more: Any) -> None:
    """Above the axes, so that it never hides data."""
    columns = min(count, 3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, ncols=columns, **more)
