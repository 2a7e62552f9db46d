"""How cost grows with size: what must be linear stays linear."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import cases_science
from bench.harness import Result, growth, judge
from lt import merge, metrics
from lt.data import lists
from lt.data.class_map import counts_of
from lt.data.splits import make_split
from lt.sampling import balanced, dpp, samplers
from lt.stages import predict

pytestmark = pytest.mark.bench


def labels_of(number):
    counts = np.maximum(number * np.arange(1, 101, dtype=float) ** -1, 1).astype(int)
    return np.random.default_rng(0).permutation(np.repeat(np.arange(100), counts))[:number]


def make_list(tmp_path):
    def make(number):
        path = tmp_path / f"{number}.txt"
        lists.write_list(path, [f"train/{i:07d}.jpg" for i in range(number)], np.arange(number) % 1000)
        return lambda: counts_of(lists.read_list(path).labels, 1000)

    return make


def make_splits(number):
    labels = np.arange(number) % 10
    spec = {"num_classes": 10, "imbalance": {"rule": "exponential", "n_max": number // 10, "imb_factor": 100}}
    return lambda: make_split(labels, spec=spec, seed=0)


def make_sampler(number):
    labels = labels_of(number)

    def work():
        source = np.random.default_rng(0)
        samplers.build("class_aware", labels=labels, num_classes=100, source=source).epoch(0, len(labels))

    return work


def make_subset(number):
    labels = np.arange(number) % 1000
    return lambda: balanced.draw_subset(labels, 10, np.random.default_rng(0))


def make_collection(batches):
    parts = [torch.rand(64, 1000) for _ in range(batches)]
    return lambda: predict.join({"logits": part} for part in parts)


def make_accuracy(classes):
    labels = np.arange(200_000) % classes
    return lambda: metrics.class_accuracy(labels, labels, classes)


def make_chain(number):
    p = np.random.default_rng(0).beta(2, 2, number)
    return lambda: dpp.official_chain(p, number // 10, np.random.RandomState(42))


# Sizes beyond the caches: what fits into one and then does not grows faster than it should.
GROWTHS = {
    "list": (None, (300_000, 600_000, 1_200_000), 1.1),
    "split": (make_splits, (100_000, 200_000, 400_000), 1.1),
    "sampler": (make_sampler, (25_000, 50_000, 100_000), 1.1),
    "subset": (make_subset, (100_000, 200_000, 400_000), 1.1),
    "collecting logits": (make_collection, (200, 400, 800), 1.2),
    "accuracy per class, in classes": (make_accuracy, (100, 1000, 8000), 0.2),
    "DPP chain, k = N / 10": (make_chain, (20_000, 80_000, 320_000), 1.1),
}


@pytest.mark.parametrize("name", GROWTHS)
def test_exponent(name, gate, tmp_path):
    make, sizes, limit = GROWTHS[name]

    def measure():
        exponent, cost = growth(make or make_list(tmp_path), sizes)
        again, _ = growth(make or make_list(tmp_path), sizes) if exponent > limit else (exponent, cost)
        value, spread = min(exponent, again), abs(exponent - again) / 0.4
        extra = {"sizes": list(sizes), "seconds": cost}
        return Result("growth", name, value, limit, judge(value <= limit, spread), kind="exponent", extra=extra)

    gate(measure)


def test_memory_of_a_merge(gate, tmp_path):
    """Peak memory in the number of models, in a process of its own each."""
    import multiprocessing

    from safetensors.torch import save_file

    for number in range(8):
        save_file({"w": torch.rand(25_000_000) + number}, tmp_path / f"{number}.safetensors")
    context = multiprocessing.get_context("spawn")

    def peak(models):
        with context.Pool(1) as pool:
            return pool.apply(merged_peak, ([tmp_path / f"{i}.safetensors" for i in range(models)], tmp_path / "out"))

    def measure():
        value = float(np.polyfit(np.log([2, 4, 8]), np.log([peak(n) for n in (2, 4, 8)]), 1)[0])
        return Result("growth", "memory of a merge, in models", value, 0.1, judge(value <= 0.1, 0.0), kind="exponent")

    gate(measure)


def merged_peak(paths, out):
    """Memory of this process in kB at its peak: what the imports took is taken off."""
    before = high_water()
    merge.merge_files(paths, "mean", out)
    return max(high_water() - before, 1)


def high_water():
    """Of this program; ru_maxrss starts with what the process held that it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def test_cases_are_here():
    assert set(cases_science.CASES) == set(cases_science.SMALL)
