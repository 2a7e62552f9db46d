"""Losses, subsets, evaluation and lists: P6 to P11."""

import numpy as np
import pytest

from bench import cases_science
from bench.harness import at_most, compare, cpu_seconds
from lt.data import lists
from lt.sampling import kdpp

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("name", cases_science.CASES)
def test_ratio(name, gate):
    gate(lambda: compare(cases_science.CASES[name]()))


def test_exact_dpp_at_5000(gate):
    p, source = np.random.default_rng(0).beta(2, 2, 5000), np.random.default_rng(1)

    def seconds():
        return cpu_seconds(lambda: kdpp.RankOne(p, 500, "code").draw(source))

    gate(lambda: at_most("P8", "exact k-DPP, N = 5,000, k = 500", seconds, 0.3, kind="seconds"))


def test_inat_list(gate):
    path, classes = cases_science.list_file("inat18"), len(lists.known_counts()["inat18"])

    def seconds():
        return cpu_seconds(lambda: cases_science.mapped(path, classes))

    gate(lambda: at_most("P11", "iNaturalist 2018's list to labels by class size", seconds, 1.0, kind="seconds"))
