from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.data import splits
from lt.data.class_map import ORDERS, argsort_scalar, class_map, counts_of
from lt.errors import UserError

DIGITS = {
    "source": "digits",
    "num_classes": 10,
    "holdout": {"test": 60, "val": 10},
    "imbalance": {"rule": "exponential", "n_max": 100, "imb_factor": 20},
}


def labels_of(num_classes: int, each: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), each))


@given(st.integers(1, 6000), st.integers(1, 1000), st.integers(1, 300))
def test_exponential_counts(n_max: int, factor: int, num_classes: int) -> None:
    counts = splits.exponential_counts(n_max, factor, num_classes)
    assert len(counts) == num_classes and counts.dtype == np.int64
    assert counts[0] == n_max
    assert (np.diff(counts) <= 0).all() and (counts >= 0).all()
    if num_classes > 1:
        assert counts[-1] == int(n_max * (1 / factor))


@given(st.integers(1, 6000), st.integers(1, 1000), st.integers(1, 300))
def test_step_counts(n_max: int, factor: int, num_classes: int) -> None:
    counts = splits.step_counts(n_max, factor, num_classes)
    half = num_classes // 2
    assert len(counts) == num_classes
    assert (counts[:half] == n_max).all() and (counts[half:] == int(n_max * (1 / factor))).all()


def test_counts_by_hand() -> None:
    assert splits.exponential_counts(100, 100, 3).tolist() == [100, 10, 1]
    assert splits.exponential_counts(8, 2, 1).tolist() == [8]
    assert splits.exponential_counts(5, 100, 2).tolist() == [5, 0]
    assert splits.step_counts(100, 10, 5).tolist() == [100, 100, 10, 10, 10]
    assert splits.exponential_counts(100, 20, 10).tolist() == [100, 71, 51, 36, 26, 18, 13, 9, 6, 5]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((10, 0.5, 3), "imb_factor"),
        ((10, float("nan"), 3), "imb_factor"),
        ((-1, 2, 3), "n_max"),
        ((10, 2, 0), "num_classes"),
    ],
)
def test_counts_refuse(arguments: tuple, name: str) -> None:
    for rule in (splits.exponential_counts, splits.step_counts):
        with pytest.raises(UserError, match=name):
            rule(*arguments)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(40, 80),
    st.integers(1, 20),
    st.integers(0, 8),
    st.integers(0, 8),
    st.data(),
)
def test_parts_are_disjoint(classes: int, each: int, factor: int, test: int, val: int, data: st.DataObject) -> None:
    labels = labels_of(classes, each, data.draw(st.integers(0, 99)))
    rule = data.draw(st.sampled_from(sorted(splits.RULES)))
    spec = {"source": "x", "num_classes": classes, "holdout": {"test": test, "val": val}}
    spec["imbalance"] = {"rule": rule, "imb_factor": factor}
    made = splits.make_split(labels, spec=spec, seed=data.draw(st.integers(0, 99)))
    lists = [part for part in (made.train, made.val, made.test) if part is not None]
    joined = np.concatenate(lists)
    assert len(np.unique(joined)) == len(joined)
    assert joined.min() >= 0 and joined.max() < len(labels)
    assert (made.val is None) == (val == 0) and (made.test is None) == (test == 0)
    assert made.class_counts.tolist() == counts_of(labels[made.train], classes).tolist()
    assert made.class_counts[0] == each - test - val
    for part, n in ((made.val, val), (made.test, test)):
        if part is not None:
            assert (counts_of(labels[part], classes) == n).all() and (np.diff(part) > 0).all()


@pytest.mark.parametrize("rule", sorted(splits.RULES))
def test_equal_seeds_equal_splits(rule: str, tmp_path: Path) -> None:
    labels = labels_of(10, 200)
    spec = {**DIGITS, "imbalance": {"rule": rule, "n_max": 100, "imb_factor": 20}}
    digests = []
    for turn in range(2):
        splits.make_split(labels, spec=spec, seed=3).save(tmp_path / str(turn))
        files = sorted((tmp_path / str(turn)).iterdir())
        digests.append([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    assert digests[0] == digests[1]


def test_what_the_seed_changes() -> None:
    labels = labels_of(10, 200)
    one, two = (splits.make_split(labels, spec=DIGITS, seed=seed) for seed in (1, 2))
    assert one.test.tolist() == two.test.tolist()
    assert set(one.val) != set(two.val)
    assert set(one.train) != set(two.train)


def test_canonical_ignores_the_seed() -> None:
    spec = {"source": "cifar10", "num_classes": 10, "imbalance": {"rule": "canonical", "imb_factor": 10}}
    one, two = (splits.make_split(labels_of(10, 200), spec=spec, seed=seed) for seed in (1, 2))
    assert one.train.tolist() == two.train.tolist()
    assert one.parts == {"train": "train", "val": None, "test": "test"}


def test_holdout_leaves_the_canonical_rule_what_is_left() -> None:
    labels = labels_of(10, 200)
    spec = {"source": "cifar10", "num_classes": 10, "imbalance": {"rule": "canonical", "imb_factor": 10}}
    held = splits.make_split(labels, spec={**spec, "holdout": {"val": 20}}, seed=0)
    assert held.class_counts.tolist() == splits.exponential_counts(180, 10, 10).tolist()
    assert not set(held.val) & set(held.train)
    left = np.setdiff1d(np.arange(2000), held.val)
    alone = splits.make_split(labels[left], spec=spec, seed=9)
    assert left[alone.train].tolist() == held.train.tolist()


def test_as_it_is() -> None:
    labels = np.array([2, 0, 1, 0, 2, 2])
    made = splits.make_split(labels, spec={"source": "list", "num_classes": 3}, seed=0)
    assert made.train.tolist() == list(range(6)) and made.class_counts.tolist() == [2, 1, 3]
    official = {"source": "list", "family": "imagenet_lt", "num_classes": 3}
    assert splits.make_split(labels, spec=official, seed=0).parts["val"] == "val"
    inat = {"source": "list", "family": "inat18", "num_classes": 3}
    assert splits.make_split(labels, spec=inat, seed=0).parts["val"] is None


def test_class_map_renumbers() -> None:
    labels = np.array([2, 0, 1, 0, 2, 2])
    spec = {"source": "list", "num_classes": 3, "class_map": "stable"}
    made = splits.make_split(labels, spec=spec, seed=0)
    assert made.class_map.tolist() == [1, 2, 0] and made.class_counts.tolist() == [3, 2, 1]
    assert counts_of(made.relabel(labels[made.train]), 3).tolist() == made.class_counts.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"holdout": {}}, "holdout.test"),
        ({"holdout": {"test": 195, "val": 10}}, "holdout.val: 10 images per class wanted, class 0 has 5"),
        ({"imbalance": {"rule": "exponental", "imb_factor": 2}}, "did you mean 'exponential'"),
        ({"imbalance": {"rule": "exponential", "n_max": 10}}, "imb_factor: missing"),
        (
            {"imbalance": {"rule": "exponential", "n_max": 10, "imb_factor": 20}},
            "class 7 would keep no image",
        ),
        ({"imbalance": {"rule": "exponential", "n_max": 500, "imb_factor": 2}}, "class 0 has 130 images"),
        ({"num_classes": 11}, "class 10"),
        ({"num_classes": 9}, "expected 0..8, found 9"),
        ({"class_map": "stabel"}, "did you mean 'stable'"),
    ],
)
def test_refusals(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        splits.make_split(labels_of(10, 200), spec={**DIGITS, **change}, seed=0)


def test_refuses_an_empty_class_and_uneven_classes() -> None:
    with pytest.raises(UserError, match="1 of 3 classes have no image"):
        splits.make_split(np.array([0, 0, 2]), spec={"source": "list", "num_classes": 3}, seed=0)
    spec = {"source": "imagefolder", "num_classes": 2, "imbalance": {"rule": "step", "imb_factor": 2}}
    with pytest.raises(UserError, match="n_max: missing, and the classes differ"):
        splits.make_split(np.array([0, 0, 1]), spec=spec, seed=0)


def test_select_is_a_prefix_of_one_shuffle() -> None:
    labels = labels_of(5, 40)
    longer = splits.select(labels, np.full(5, 30), np.random.RandomState(4))
    shorter = splits.select(labels, np.array([30, 20, 10, 5, 0]), np.random.RandomState(4))
    for c, n in enumerate([30, 20, 10, 5, 0]):
        assert shorter[labels[shorter] == c].tolist() == longer[labels[longer] == c][:n].tolist()
    with pytest.raises(UserError, match="class 1: 41 images wanted, 40 there"):
        splits.select(labels, np.array([1, 41, 1, 1, 1]), np.random.RandomState(4))


def test_save_and_read(tmp_path: Path) -> None:
    made = splits.make_split(labels_of(10, 200), spec=DIGITS, seed=0)
    made.save(tmp_path)
    back = splits.Split.read(tmp_path)
    for name in splits.INT64_FILES:
        assert getattr(back, name).tolist() == getattr(made, name).tolist()
    assert back.parts == made.parts
    (tmp_path / "test.npy").unlink()
    with pytest.raises(UserError, match=r"test\.npy is missing; run the split stage again"):
        splits.Split.read(tmp_path)
    with pytest.raises(UserError, match="not a split"):
        splits.Split.read(tmp_path / "nowhere")


def test_read_refuses_pickles(tmp_path: Path) -> None:
    splits.make_split(labels_of(10, 200), spec=DIGITS, seed=0).save(tmp_path)
    np.save(tmp_path / "train.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a split"):
        splits.Split.read(tmp_path)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=400))
def test_class_maps_sort(counts: list[int]) -> None:
    values = np.array(counts)
    for order in ORDERS:
        mapping = class_map(values, order)
        assert sorted(mapping.tolist()) == list(range(len(counts)))
        if order != "label":
            assert (np.diff(values[np.argsort(mapping)]) <= 0).all()


def test_scalar_sort_survives_a_killer_of_median_of_three() -> None:
    n, values = 4000, []
    half = n // 2
    values = [0] * n
    for i in range(1, half + 1):
        if i % 2:
            values[i - 1], values[i] = i, half + i
        values[half + i - 1] = 2 * i
    order = argsort_scalar(values)
    assert [values[i] for i in order] == sorted(values) and sorted(order) == list(range(n))
    assert argsort_scalar([]) == []
