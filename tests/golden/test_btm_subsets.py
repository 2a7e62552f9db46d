"""Balanced subsets: the drawing rule line by line, the published lists byte for byte."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from lt.sampling import balanced

DATA = Path(__file__).parent / "btm"
TOY = np.load(DATA / "subsets_toy.npz")
CASES = sorted({name.split("__")[0] for name in TOY.files})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("use_global", [False, True])
def test_rule(case: str, use_global: bool) -> None:
    seed = int(TOY[f"{case}__random_seed"])
    source = random if use_global else random.Random(seed)
    random.seed(seed)
    for draw in range(3):
        picked = balanced.draw_subset(TOY[f"{case}__targets"], int(TOY[f"{case}__K"]), source)
        assert picked.tolist() == TOY[f"{case}__pick{draw}"].tolist()


@pytest.mark.parametrize("index", [0, 4, 9])
def test_imagenet_bytes(index: int) -> None:
    published = json.loads((DATA / "subset_lists.json").read_text())[f"ImageNet_BL_train_10_{index}.txt"]
    text = balanced.official_text("imagenet", 10, index).encode()
    assert len(text) == published["bytes"]
    assert text.count(b"\n") == published["lines"]
    assert hashlib.sha256(text).hexdigest() == published["sha256"]
    blob = b"blob %d\0" % len(text) + text
    assert hashlib.sha1(blob, usedforsecurity=False).hexdigest() == published["git_blob"]


@pytest.mark.parametrize("k", [5, 10])
def test_places_positions(k: int) -> None:
    counts = np.array(json.loads((DATA / "class_counts_places_lt.json").read_text())["counts"])
    labels = np.repeat(np.arange(len(counts)), counts)
    lines = [f"data_256/x/{i:08d}.jpg {label}" for i, label in enumerate(labels)]
    overlaps = []
    drawn = [balanced.official("places", k, i, train_list=lines) for i in range(10)]
    for positions in drawn:
        assert len(np.unique(positions)) == len(positions)
        assert (np.diff(labels[positions]) >= 0).all()
        assert np.array_equal(np.bincount(labels[positions], minlength=365), np.minimum(counts, k))
    for i in range(9):
        overlaps.append(len(np.intersect1d(drawn[i], drawn[i + 1])))
    mean, deviation = balanced.expected_overlap(counts, k), balanced.overlap_deviation(counts, k)
    assert max(abs(np.array(overlaps) - mean)) < 4 * deviation
    assert abs(np.mean(overlaps) - mean) < 4 * deviation / 3


def test_expected_overlap_of_the_published_table() -> None:
    counts = np.array(json.loads((DATA / "class_counts_places_lt.json").read_text())["counts"])
    assert balanced.expected_overlap(counts, 5) == pytest.approx(290.0, abs=0.05)
    assert balanced.expected_overlap(counts, 10) == pytest.approx(948.9, abs=0.05)
