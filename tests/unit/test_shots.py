from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lt.data import shots
from lt.errors import UserError


def test_bounds_belong_to_medium() -> None:
    assert shots.by_count(np.array([101, 100, 20, 19, 0])).tolist() == [0, 1, 1, 2, 2]
    assert shots.by_count(np.array([9, 5, 4, 3]), many=4, few=4).tolist() == [0, 0, 1, 2]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_every_class_is_in_one_group(counts: list[int]) -> None:
    found = shots.by_count(np.array(counts))
    assert found.dtype == np.int64
    for n, group in zip(counts, found.tolist(), strict=True):
        assert group == (0 if n > 100 else 2 if n < 20 else 1)


def test_slices_follow_rank_not_count() -> None:
    counts = np.full(10, 7)
    assert shots.groups("config", counts, family="cifar10_lt").tolist() == [0] * 3 + [1] * 4 + [2] * 3


def test_slices_of_counts_in_label_order() -> None:
    counts = np.array([1, 9, 5, 5, 7, 2, 2, 2, 8, 3])
    assert shots.groups("config", counts, family="cifar10_lt").tolist() == [2, 0, 1, 1, 0, 1, 2, 2, 0, 1]


def test_ipdpp_cuts() -> None:
    counts = np.array([501, 500, 200, 199])
    assert shots.groups("ipdpp", counts, family="cifar10_lt").tolist() == [0, 1, 1, 2]
    assert shots.groups("ipdpp", counts, family="cifar100_lt").tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rule", "counts", "family", "message"),
    [
        ("cuont", [3, 2], "digits", "did you mean 'count'"),
        ("config", [3, 2], "digits", "no published cuts for 'digits'"),
        ("config", [3, 2], "cifar10_lt", "do not fit 2 classes"),
    ],
)
def test_refusals(rule: str, counts: list[int], family: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        shots.groups(rule, np.array(counts), family=family)


def test_overlapping_thresholds_are_refused() -> None:
    with pytest.raises(UserError, match="few"):
        shots.by_count(np.array([1]), many=20, few=100)
