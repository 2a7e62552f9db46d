from __future__ import annotations

import random

import numpy as np
import pytest

from lt.errors import UserError
from lt.rng import stream
from lt.sampling import balanced

SOURCES = [lambda: random.Random(3), lambda: np.random.RandomState(3), lambda: stream(3, "subset", 0)]


@pytest.mark.parametrize("make", SOURCES)
def test_each_class_whole_or_k_distinct(make) -> None:
    labels = np.repeat([4, 0, 9], [3, 12, 5])
    picked = balanced.draw_subset(labels, 5, make())
    assert picked.dtype == np.int64
    assert len(np.unique(picked)) == len(picked) == 13
    assert labels[picked].tolist() == [4] * 3 + [0] * 5 + [9] * 5
    assert np.array_equal(picked, balanced.draw_subset(labels, 5, make()))


@pytest.mark.parametrize("make", SOURCES)
def test_draws_on_one_source_differ_and_leave_labels_alone(make) -> None:
    labels = np.random.RandomState(0).randint(0, 4, 200)
    kept = labels.copy()
    source = make()
    first, second = (balanced.draw_subset(labels, 10, source) for _ in range(2))
    assert not np.array_equal(first, second)
    assert np.array_equal(labels, kept)


def test_inclusion_is_uniform_and_overlap_as_expected() -> None:
    counts = np.array([60, 25, 8, 3])
    labels = np.repeat(np.arange(4), counts)
    source = stream(0, "subset", "uniform")
    draws = [balanced.draw_subset(labels, 10, source) for _ in range(2000)]
    share = np.bincount(np.concatenate(draws), minlength=len(labels)) / len(draws)
    expected = np.minimum(counts, 10)[labels] / counts[labels]
    assert (np.abs(share - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / len(draws))).all()
    overlaps = [len(np.intersect1d(a, b)) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    mean, deviation = balanced.expected_overlap(counts, 10), balanced.overlap_deviation(counts, 10)
    assert abs(np.mean(overlaps) - mean) < 4 * deviation / np.sqrt(len(overlaps))
    assert np.std(overlaps) == pytest.approx(deviation, rel=0.1)


def test_classes_come_in_order_of_first_appearance() -> None:
    groups = balanced.by_class(np.array([7, 2, 7, 0, 2]))
    assert [(c, p.tolist()) for c, p in groups.items()] == [(7, [0, 2]), (2, [1, 4]), (0, [3])]


@pytest.mark.parametrize(
    ("labels", "k", "words"),
    [
        ([0, 1], 0, "k is 0"),
        ([0, 1], 1.5, "k is 1.5"),
        ([], 2, "labels of shape"),
        ([[0, 1]], 2, "labels of shape"),
        ([0.5, 1.0], 2, "whole numbers"),
    ],
)
def test_mistakes_are_named(labels, k, words) -> None:
    with pytest.raises(UserError, match=words):
        balanced.draw_subset(np.array(labels), k, random.Random(0))


def test_official_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'places'"):
        balanced.official_text("place", 10, 0)
    with pytest.raises(UserError, match="known k: "):
        balanced.official_text("imagenet", 5, 0)
    with pytest.raises(UserError, match="0 to 9, not 10"):
        balanced.official_text("imagenet", 10, 10)
    with pytest.raises(UserError, match="pass the Places-LT training list"):
        balanced.official_text("places", 10, 0)
    with pytest.raises(UserError, match="62500 lines, this one 1"):
        balanced.official("places", 10, 0, train_list=["a/b.jpg 0"])
    with pytest.raises(UserError, match="9876 of 9876"):
        balanced.official("imagenet", 10, 0, train_list=["a/b.jpg 0"])


def test_official_positions_ignore_prefix_order_and_line_ends() -> None:
    lines = balanced.official_text("imagenet", 10, 3).splitlines()
    mine = [f"elsewhere/{line.split('/')[-1]}\r\n" for line in reversed(lines)]
    positions = balanced.official("imagenet", 10, 3, train_list=mine)
    assert positions.tolist() == list(range(len(lines)))[::-1]


def test_reordered_places_list_is_refused() -> None:
    labels = np.arange(62500) % 365
    with pytest.raises(UserError, match="not in the released order"):
        balanced.official("places", 10, 0, train_list=[f"x/{i}.jpg {c}" for i, c in enumerate(labels)])


def test_foreign_bytes_are_refused_by_digest() -> None:
    with pytest.raises(UserError, match="sha256"):
        balanced.official_text("places", 10, 0, train_list=[f"x/{i}.jpg 0" for i in range(62500)])
