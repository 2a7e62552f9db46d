"""Timing: two ways of one result, interleaved in one process, by CPU time of one thread.

Seconds do not travel between machines and wall time does not survive a neighbour; the ratio of two CPU times
that were taken moments apart does both.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import peak

NOISY = 0.25  # spread of the quartiles, relative to the median, above which a ratio convicts nobody
SETTLED = 0.10  # ... and below which more rounds would tell nothing new
LEAST_S = 5e-3  # a shorter work is timed several times over: alone it would measure cold caches and the clock
NEAR_ANCHOR = 0.7  # the ordinary way must reach its anchor within 30 %
Work = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two ways to one result. `same` raises where they differ by more than `tolerance` says."""

    id: str
    what: str
    ordinary: Work
    ours: Work
    same: Callable[[Any, Any], None]
    tolerance: str
    demand: float  # how many times cheaper ours must be
    items: int = 1  # images, steps, draws in one call
    unit: str = "call"
    anchor: float | None = None  # microseconds of CPU an item that the ordinary way took on the anchor machine
    rounds: int = 7
    budget_s: float = 5.0


@dataclass
class Result:
    """What a case came to; `verdict` is ok, slow, inconclusive, or flattered: by a reference that is too slow."""

    id: str
    what: str
    value: float
    demand: float
    verdict: str
    kind: str = "ratio"  # ratio and share: per cent; seconds, exponent: at most
    tolerance: str = ""
    q1: float | None = None
    q3: float | None = None
    rounds: int = 1
    ordinary_us: float | None = None
    ours_us: float | None = None
    unit: str = ""
    anchor_share: float | None = None  # speed of the ordinary way, relative to its anchor on this machine
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def cpu_seconds(work: Work, calls: int = 1) -> float:
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def compare(case: Case, *, rounds: int | None = None, seed: int = 0) -> Result:
    """Check that both ways agree, then time them in pairs whose order is drawn anew each round."""
    one_thread()
    found, works = {}, {}
    for name in ("ordinary", "ours"):
        work, start = getattr(case, name), time.process_time()
        found[name] = work()
        works[name] = work, calls_of(time.process_time() - start)
    case.same(found.pop("ordinary"), found.pop("ours"))
    order, pairs = random.Random(seed), []
    least, end = rounds or case.rounds, time.monotonic() + case.budget_s
    while True:
        spent = dict.fromkeys(works, 0.0)
        for name in order.sample(sorted(spent), 2):
            work, calls = works[name]
            spent[name] = cpu_seconds(work, calls)
        pairs.append((spent["ordinary"], spent["ours"]))
        q1, median, q3 = quartiles([a / max(b, 1e-9) for a, b in pairs])
        late = rounds is not None or time.monotonic() > end
        if len(pairs) >= least and (late or (q3 - q1) / median < SETTLED):
            break
    fastest = [min(column) * 1e6 / case.items for column in zip(*pairs, strict=True)]
    verdict = judge(median >= case.demand, (q3 - q1) / median)
    if verdict == "ok" and case.anchor and peak.idle_cores() >= 0 and not fair(case.anchor, fastest[0]):
        verdict = "flattered"
    return Result(
        id=case.id,
        what=case.what,
        value=median,
        demand=case.demand,
        verdict=verdict,
        tolerance=case.tolerance,
        q1=q1,
        q3=q3,
        rounds=len(pairs),
        ordinary_us=fastest[0],
        ours_us=fastest[1],
        unit=case.unit,
        anchor_share=case.anchor and case.anchor * peak.ANCHOR_GFLOPS / peak.matmul_gflops() / fastest[0],
    )


def calls_of(seconds: float) -> int:
    """How often a work that takes so long is called in one measurement."""
    return max(1, min(100, math.ceil(LEAST_S / max(seconds, 1e-6))))


def fair(anchor: float, fastest: float) -> bool:
    """Whether the ordinary way took at most what such code takes: its anchor, longer where this machine is slower.

    Not shorter where matrix products are faster here: Pillow, Python and memory do not keep pace with them. On a busy
    machine every anchor looks far away, so that nobody asks.
    """
    return fastest <= anchor * max(1.0, peak.ANCHOR_GFLOPS / peak.matmul_gflops()) / NEAR_ANCHOR


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    ranked = sorted(values)
    cut = len(ranked) // 4
    return ranked[cut], statistics.median(ranked), ranked[-1 - cut]


def judge(reached: bool, spread: float) -> str:
    """A miss counts only where the measurement was quiet."""
    if reached:
        return "ok"
    return "inconclusive" if spread > NOISY else "slow"


def settle(measure: Callable[[], Result]) -> Result:
    """The measurement, once more if it missed: a single miss may be a neighbour's doing."""
    first = measure()
    return first if first.verdict == "ok" else measure()


def growth(make: Callable[[int], Work], sizes: Sequence[int], *, repeats: int = 3) -> tuple[float, list[float]]:
    """Exponent of CPU time in the size: 0 independent of it, 1 linear, 2 quadratic. The least of `repeats` counts."""
    one_thread()
    works = [make(size) for size in sizes]
    for work in works:
        work()
    cost = [math.inf] * len(works)
    for _ in range(repeats):  # interleaved, so that a busy moment hits every size alike
        cost = [min(seen, cpu_seconds(work)) for seen, work in zip(cost, works, strict=True)]
    return slope(sizes, cost), cost


def slope(sizes: Sequence[float], cost: Sequence[float]) -> float:
    """Least-squares slope of log cost over log size."""
    x, y = [math.log(s) for s in sizes], [math.log(max(c, 1e-9)) for c in cost]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def at_most(id: str, what: str, measure: Callable[[], float], limit: float, *, kind: str, repeats: int = 3) -> Result:
    """A quantity that must not exceed `limit`: the least of some measurements, the spread over all of them."""
    found: list[float] = []
    while len(found) < repeats and not (found and min(found) <= limit):
        found.append(measure())
    spread = (max(found) - min(found)) / max(abs(min(found)), 1e-9) if len(found) > 1 else 0.0
    return Result(id, what, min(found), limit, judge(min(found) <= limit, spread), kind=kind, rounds=len(found))
