"""Losses, determinantal subsets, evaluation and lists."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bench import ordinary
from bench.harness import Case
from lt import merge as merging
from lt import metrics, models, posthoc
from lt.data import lists
from lt.data.class_map import class_map, counts_of
from lt.losses.contrastive import bns
from lt.sampling import dpp, kdpp
from lt.stages import predict


def equal(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def contrastive(batch: int = 256) -> Case:
    """P6: value and gradient."""
    source = torch.Generator().manual_seed(0)
    first, second = (torch.randn(batch, 128, generator=source) for _ in range(2))
    labels = torch.randint(0, 10, (batch,), generator=source)

    def run(loss: Any) -> tuple[float, torch.Tensor]:
        a = first.clone().requires_grad_()
        value = loss(a, second, labels)
        value.backward()
        return value.item(), a.grad

    def close(a: tuple, b: tuple) -> None:
        assert abs(a[0] - b[0]) <= 1e-5 * abs(a[0])
        assert (a[1] - b[1]).norm() <= 1e-5 * a[1].norm()

    return Case(
        id="P6",
        what=f"BNS loss, forward and backward, B = {batch}",
        ordinary=lambda: run(ordinary.bns),
        ours=lambda: run(bns),
        same=close,
        tolerance="value and gradient 1e-5",
        demand=100,
        anchor=ordinary.ANCHORS["bns"] if batch == 256 else None,
        rounds=4,
        budget_s=6.0,
    )


def chain(total: int = 5000, k: int = 500) -> Case:
    """P7: the released chain, whole and with the released use of the generator."""
    p, source = np.random.default_rng(0).beta(2, 2, total), np.random.RandomState(42)
    start = source.get_state()  # putting it back is cheap; a new source would take a third of our time

    def run(chain: Any) -> np.ndarray:
        source.set_state(start)
        return chain(p, k, source)

    return Case(
        id="P7",
        what=f"IP-DPP's released chain, N = {total:,}, k = {k}",
        ordinary=lambda: run(ordinary.dpp_chain),
        ours=lambda: run(dpp.official_chain),
        same=equal,
        tolerance="identical indices",
        demand=200,
        anchor=ordinary.ANCHORS["dpp_chain"] if total == 5000 else None,
        budget_s=4.0,
    )


def exact_dpp(total: int = 2000, k: int = 200) -> Case:
    """P8. Two exact samplers agree in law: both draws must be k different items of a high determinant."""
    p = np.random.default_rng(0).beta(2, 2, total)
    matrix, source = ordinary.dpp_matrix(p), np.random.default_rng(1)
    sampler = kdpp.RankOne(p, k, "code")

    def lawful(a: np.ndarray, b: np.ndarray) -> None:
        levels = [sampler.log_det(np.asarray(draw)) for draw in (a, b)]
        for draw in (a, b):
            assert len(np.unique(draw)) == k
            sign, level = np.linalg.slogdet(matrix[np.ix_(draw, draw)])
            assert sign > 0
            assert abs(level - sampler.log_det(np.asarray(draw))) < 1e-6
        assert abs(levels[0] - levels[1]) < 1.0

    return Case(
        id="P8",
        what=f"exact k-DPP with its preparation, N = {total:,}, k = {k}, against DPPy",
        ordinary=lambda: ordinary.dppy(matrix, k, 0),
        ours=lambda: kdpp.RankOne(p, k, "code").draw(source),
        same=lawful,
        tolerance="in law; log det by the formula and dense within 1e-6",
        demand=20,
        rounds=4,
        budget_s=6.0,
    )


def collect(batches: int = 400, rows: int = 32, classes: int = 1000) -> Case:
    """P9a."""
    source = torch.Generator().manual_seed(0)
    parts = [torch.rand(rows, classes, generator=source) for _ in range(batches)]
    return Case(
        id="P9a",
        what=f"collect {batches} batches of logits, {rows} x {classes:,}",
        ordinary=lambda: ordinary.collect(parts, classes),
        ours=lambda: predict.join({"logits": part} for part in parts)["logits"],
        same=equal,
        tolerance="identical",
        demand=50,
        anchor=ordinary.ANCHORS["collect"] * rows / 128 if batches == 400 else None,
        rounds=3,
        budget_s=6.0,
    )


def class_accuracy(images: int = 50_000, classes: int = 1000) -> Case:
    """P9b."""
    source = np.random.default_rng(0)
    labels = source.permutation(np.arange(images) % classes)
    pred = np.where(source.random(images) < 0.5, labels, source.integers(0, classes, images))
    return Case(
        id="P9b",
        what=f"accuracy of {classes:,} classes from {images:,} predictions",
        ordinary=lambda: ordinary.class_accuracy(pred, labels),
        ours=lambda: metrics.class_accuracy(pred, labels, classes),
        same=equal,
        tolerance="identical",
        demand=80,
        anchor=ordinary.ANCHORS["class_accuracy"] if images == 50_000 else None,
        budget_s=2.0,
    )


def pn(images: int = 10_000, classes: int = 1000) -> Case:
    """P10: the sweep over 21 taus, per tau."""
    source = np.random.default_rng(0)
    logits = source.normal(size=(images, classes)).astype(np.float32) * 3
    labels = source.integers(0, classes, images)

    taus = posthoc.TAUS

    def same(a: list[np.ndarray], b: dict[str, np.ndarray]) -> None:
        for tau, found, mine in zip(taus, a, b["predictions"], strict=True):
            rows = np.flatnonzero(found != mine)
            if len(rows):
                scores = ordinary.pn_scores(logits, tau)
                assert (scores[rows, mine[rows]] == scores[rows, found[rows]]).all()
                assert len(rows) <= 1e-3 * len(mine)

    return Case(
        id="P10",
        what=f"prediction normalisation, a tau, {images:,} x {classes:,}",
        ordinary=lambda: [ordinary.pn(logits, tau) for tau in taus],
        ours=lambda: posthoc.pn_sweep(logits, labels, taus),
        same=same,
        tolerance="identical, but for exact ties of the reference",
        demand=3,
        items=len(taus),
        unit="tau",
        anchor=ordinary.ANCHORS["pn"] * images / 50_000 if classes == 1000 else None,
        rounds=3,
        budget_s=6.0,
    )


@functools.cache
def list_file(family: str, part: int = 1) -> Path:
    """A made-up list with the published class counts (every `part`-th class)."""
    counts = np.asarray(lists.known_counts()[family])[::part]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    path = Path(tempfile.mkdtemp(prefix="lt-bench-")) / f"{family}.txt"
    lists.write_list(path, [f"train/n{c:08d}/n{c:08d}_{i}.JPEG" for i, c in enumerate(labels)], labels)
    return path


def mapped(path: Path, classes: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    read = lists.read_list(path)
    counts = counts_of(read.labels, classes)
    order = class_map(counts)
    labels = order[read.labels]
    return read.paths, labels, counts_of(labels, classes)


def class_map_of_list(part: int = 1) -> Case:
    """P11: ImageNet-LT's list, from the file to labels by class size."""
    path = list_file("imagenet_lt", part)
    classes = len(lists.known_counts()["imagenet_lt"][::part])

    def same(a: tuple, b: tuple) -> None:
        assert a[0] == b[0]
        equal(a[1], b[1])
        equal(a[2], b[2])

    return Case(
        id="P11",
        what="ImageNet-LT's list to labels by class size",
        ordinary=lambda: ordinary.class_map(path.read_text()),
        ours=lambda: mapped(path, classes),
        same=same,
        tolerance="identical",
        demand=50,
        anchor=ordinary.ANCHORS["class_map"] if part == 1 else None,
        rounds=3,
        budget_s=1.0,
    )


@functools.cache
def model_files(arch: str, count: int) -> list[Path]:
    """Models that differ, in files of their own."""
    folder = Path(tempfile.mkdtemp(prefix="lt-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    state = models.build(arch, 1000, seed=0).state_dict()
    paths = [folder / f"{i}.safetensors" for i in range(count)]
    for i, path in enumerate(paths):
        save_file({name: value + i for name, value in state.items()}, path)
    return paths


def merge_of_files(arch: str = "resnet50", count: int = 10) -> Case:
    """Against reading the same files, which lie in the page cache, and looking at nothing."""
    paths = model_files(arch, count)
    out = paths[0].with_name("merged.safetensors")

    def ours() -> Path:
        merging.merge_files(paths, "mean", out)
        return out

    def same(read: int, merged: Path) -> None:
        assert read == sum(path.stat().st_size for path in paths)
        first, found = load_file(paths[0]), load_file(merged)
        for name, value in first.items():
            mean = value.double() + (count - 1) / 2
            torch.testing.assert_close(found[name].double(), mean if value.dtype.is_floating_point else mean.round())

    return Case(
        id="merge",
        what=f"mean of {count} {arch}, from files to a file, against reading them",
        ordinary=lambda: sum(len(path.read_bytes()) for path in paths),
        ours=ours,
        same=same,
        tolerance="the float32 rounding of the mean",
        demand=0.5,
        unit="merge",
        rounds=5,
        budget_s=12.0,
    )


CASES = {
    "contrastive": contrastive,
    "chain": chain,
    "exact_dpp": exact_dpp,
    "collect": collect,
    "class_accuracy": class_accuracy,
    "pn": pn,
    "class_map": class_map_of_list,
    "merge": merge_of_files,
}
SMALL = {
    "contrastive": {"batch": 16},
    "chain": {"total": 300, "k": 30},
    "exact_dpp": {"total": 120, "k": 12},
    "collect": {"batches": 5},
    "class_accuracy": {"images": 2000, "classes": 100},
    "pn": {"images": 200, "classes": 50},
    "class_map": {"part": 50},
    "merge": {"arch": "resnet10", "count": 3},
}
