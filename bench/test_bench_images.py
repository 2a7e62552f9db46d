"""Small images: P1, P2, P13."""

import numpy as np
import pytest

from bench import cases_images
from bench.harness import at_most, compare, cpu_seconds
from lt.data.loader import draw_rows

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("name", cases_images.CASES)
def test_ratio(name, gate):
    gate(lambda: compare(cases_images.CASES[name]()))


def test_draws_of_an_epoch(gate):
    number = 50_000
    order = np.random.default_rng(0).permutation(number)

    def microseconds():
        return cpu_seconds(lambda: draw_rows(order, n=number, columns=3, seed=0, epoch=0)) / number * 1e6

    gate(lambda: at_most("P13", "draws a sample, three columns, whole epoch", microseconds, 0.2, kind="us", repeats=7))
