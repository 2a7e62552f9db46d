"""Collects what the cases measured and writes it at the end of the session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import peak, report
from bench.harness import Result, settle

MEASURED: list[Result] = []


@pytest.fixture
def gate() -> Callable[[Callable[[], Result]], Result]:
    """Measure, retry a miss once, keep the result; red only where a quiet measurement missed."""

    def judged(measure: Callable[[], Result]) -> Result:
        result = settle(measure)
        MEASURED.append(result)
        if result.verdict == "inconclusive":
            pytest.skip(f"{result.id}: {result.value:.3g} against {result.demand:g}, but the machine was too noisy")
        assert result.verdict == "ok", f"{result.id} ({result.what}): {result.value:.3g} against {result.demand:g}"
        return result

    return judged


def pytest_sessionfinish(session: pytest.Session) -> None:
    if MEASURED:
        folder = Path(os.environ.get("LT_BENCH_OUT", "benchmarks/ratios"))
        for path in report.write(MEASURED, peak.machine(), folder):
            print(f"\nwrote {path}", end="")
