"""Long-tailed CIFAR and its kin, index by index, as five code bases drew them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from lt.data import splits
from lt.data.class_map import class_map, counts_of
from lt.data.shots import by_count, groups

HERE = Path(__file__).parent
BTM = np.load(HERE / "btm" / "splits_cifar.npz")
BAGMAR = np.load(HERE / "bagmar" / "cifar_lt.npz")
LIVT = np.load(HERE / "livt" / "cifar_lt.npz")
IPDPP = np.load(HERE / "ipdpp" / "splits.npz")
RIDE = np.load(HERE / "ride" / "misc.npz")
RIDE_CASES = {k: v for k, v in json.loads((HERE / "ride" / "misc.json").read_text()).items() if "split/" in k}


def spec(num_classes: int, factor: int, rule: str = "canonical") -> dict:
    imbalance = {"rule": rule, "imb_factor": factor}
    return {"source": f"cifar{num_classes}", "num_classes": num_classes, "imbalance": imbalance}


def ranks(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Which image of its class, in file order, each kept position is."""
    rank = np.empty(len(labels), dtype=np.int64)
    for positions in splits.by_class(labels, labels.max() + 1):
        rank[positions] = np.arange(len(positions))
    return rank[kept]


def label_orders(num_classes: int) -> list[np.ndarray]:
    cycle = np.arange(50000) % num_classes
    return [cycle, np.sort(cycle), np.random.default_rng(3).permutation(cycle)]


@pytest.mark.parametrize("case", sorted({k.rsplit("__", 1)[0] for k in BTM.files}))
def test_btm(case: str) -> None:
    num_classes, ratio = int(case.split("_")[0][1:]), float(case.rsplit("_", 1)[1])
    for labels in label_orders(num_classes):
        made = splits.make_split(labels, spec=spec(num_classes, round(1 / ratio)), seed=5)
        assert made.class_counts.tolist() == BTM[f"{case}__counts"].tolist()
        assert (ranks(labels, made.train) == BTM[f"{case}__ranks"]).all()


@pytest.mark.parametrize("name", [k for k in BAGMAR.files if k.startswith("counts_")])
def test_bagmar_counts(name: str) -> None:
    parts = name.split("_")
    num_classes, factor = int(parts[1].removeprefix("cifar")), int(parts[-1].removeprefix("if"))
    rule = splits.step_counts if "step" in name else splits.exponential_counts
    assert rule(50000 / num_classes, factor, num_classes).tolist() == BAGMAR[name].tolist()


@pytest.mark.parametrize("case", sorted({k.split("/")[0] for k in BAGMAR.files if "/" in k}))
def test_bagmar_selection(case: str) -> None:
    num_classes, factor, seed = (int(w.lstrip("cifsed")) for w in case.split("_")[1:])
    labels = BAGMAR[f"{case}/targets"]
    counts = splits.exponential_counts(len(labels) / num_classes, factor, num_classes)
    kept = splits.select(labels, counts, np.random.RandomState(seed))
    assert counts.tolist() == BAGMAR[f"{case}/counts"].tolist()
    assert kept.tolist() == BAGMAR[f"{case}/index"].tolist()
    assert labels[kept].tolist() == BAGMAR[f"{case}/labels"].tolist()


@pytest.mark.parametrize("case", sorted({k.split("/")[0] for k in LIVT.files}))
def test_livt(case: str) -> None:
    num_classes = int(case.split("_")[0][1:])
    rule = "canonical_step" if "step" in case else "canonical"
    factor = int(case.split("_")[1].removeprefix("step").removeprefix("if"))
    made = splits.make_split(np.arange(50000) % num_classes, spec=spec(num_classes, factor, rule), seed=1)
    assert made.class_counts.tolist() == LIVT[f"{case}/counts"].tolist()
    if f"{case}/total" in LIVT.files:
        assert len(made.train) == LIVT[f"{case}/total"]
    if f"{case}/index" in LIVT.files:
        assert (made.train == LIVT[f"{case}/index"]).all()


@pytest.mark.parametrize("num_classes", [10, 100])
def test_ipdpp(num_classes: int) -> None:
    longest = IPDPP[f"c{num_classes}_positions_if10"]
    runs = np.split(longest, np.cumsum(IPDPP[f"c{num_classes}_if10_counts"])[:-1])
    labels = np.arange(50000) % num_classes
    for factor in (10, 20, 50, 100, 200):
        counts = IPDPP[f"c{num_classes}_if{factor}_counts"]
        made = splits.make_split(labels, spec=spec(num_classes, factor), seed=0)
        assert made.class_counts.tolist() == counts.tolist()
        wanted = np.concatenate([run[:n] for run, n in zip(runs, counts, strict=True)])
        assert (ranks(labels, made.train) == wanted).all()
    step = splits.step_counts(50000 / num_classes, 100, num_classes)
    assert step.tolist() == IPDPP[f"c{num_classes}_step_counts"].tolist()


def test_ipdpp_uneven_total() -> None:
    counts = splits.exponential_counts(int(IPDPP["odd_total"]) / 7, 10, 7)
    assert counts.tolist() == IPDPP["odd_counts"].tolist()


@pytest.mark.parametrize("num_classes", [10, 100])
def test_ipdpp_permuted(num_classes: int) -> None:
    seed = int(IPDPP[f"c{num_classes}_permuted_targets_seed"])
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(num_classes), 50000 // num_classes))
    wanted = IPDPP[f"c{num_classes}_permuted_if100_selected"]
    made = splits.make_split(labels, spec=spec(num_classes, 100), seed=0)
    assert (made.train == wanted).all()


def test_ipdpp_probe_subset() -> None:
    source = random.Random(int(IPDPP["probe_pyrandom_seed"]))
    picked = splits.sample_per_class(IPDPP["probe_labels"], int(IPDPP["probe_n"]), source)
    assert picked.tolist() == IPDPP["probe_indices"].tolist()


@pytest.mark.parametrize("case", sorted(RIDE_CASES))
def test_ride(case: str) -> None:
    told = RIDE_CASES[case]
    num_classes = told["C"]
    labels = np.random.RandomState(77).permutation(np.repeat(np.arange(num_classes), 50000 // num_classes))
    rule = "canonical" if told["imb_type"] == "exp" else "canonical_step"
    made = splits.make_split(labels, spec=spec(num_classes, round(1 / told["imb_factor"]), rule), seed=0)
    wanted = RIDE[f"{case}/indices"]
    assert made.class_counts.tolist() == RIDE[f"{case}/img_num"].tolist()
    assert len(made.train) == RIDE[f"{case}/len"]
    assert made.train.sum() == RIDE[f"{case}/index_sum"]
    assert (made.train[: len(wanted)] == wanted).all()
    assert labels[made.train][:200].tolist() == RIDE[f"{case}/targets_head"].tolist()


# The cards' tables of group sizes: classes in many, medium, few.
SIZES = {
    ("cifar100_lt", 10): (69, 31, 0),
    ("cifar100_lt", 50): (41, 41, 18),
    ("cifar100_lt", 100): (35, 35, 30),
    ("cifar100_lt", 200): (30, 31, 39),
    ("cifar10_lt", 10): (10, 0, 0),
    ("cifar10_lt", 50): (9, 1, 0),
    ("cifar10_lt", 100): (8, 2, 0),
    ("cifar10_lt", 200): (7, 3, 0),
}
IPDPP_SIZES = {10: (9, 1, 0), 20: (7, 3, 0), 50: (6, 2, 2), 100: (5, 2, 3), 200: (4, 2, 4)}
LARGE = {"imagenet_lt": (385, 479, 136), "places_lt": (131, 163, 71), "inat18": (842, 4076, 3224)}
CONFIG = {"imagenet_lt": (390, 445, 165), "places_lt": (131, 157, 77), "inat18": (842, 3701, 3599)}


@pytest.mark.parametrize(("family", "factor"), sorted(SIZES))
def test_group_sizes_cifar(family: str, factor: int) -> None:
    num_classes = 10 if family == "cifar10_lt" else 100
    counts = splits.exponential_counts(50000 / num_classes, factor, num_classes)
    assert tuple(counts_of(by_count(counts), 3)) == SIZES[family, factor]
    cuts = (3, 4, 3) if num_classes == 10 else (36, 35, 29)
    assert tuple(counts_of(groups("config", counts, family=family), 3)) == cuts


@pytest.mark.parametrize("factor", sorted(IPDPP_SIZES))
def test_group_sizes_ipdpp(factor: int) -> None:
    counts = splits.exponential_counts(5000, factor, 10)
    assert tuple(counts_of(groups("ipdpp", counts, family="cifar10_lt"), 3)) == IPDPP_SIZES[factor]


@pytest.mark.parametrize("family", sorted(LARGE))
def test_group_sizes_large(family: str) -> None:
    counts = np.array(json.loads((HERE / "btm" / f"class_counts_{family}.json").read_text())["counts"])
    assert tuple(counts_of(by_count(counts), 3)) == LARGE[family]
    for order in ("stable", "legacy"):
        renumbered = counts[np.argsort(class_map(counts, order))]
        assert tuple(counts_of(groups("config", renumbered, family=family), 3)) == CONFIG[family]
