"""Every recipe of every paper on every large set, run to a table row: generated images, two steps, small inputs.

Networks have their real shapes; images are 32 pixels (64 for ViTs), batches four images, the scripts run in forks of
one warm Python. Stages that methods share run once: one Snakemake call a set.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from trees import ROOT, checkout, small_tree, warm_snakemake

from lt.config import load
from lt.data.rehearse import rehearse

CONFIG = load(ROOT / "params.yaml")
CHEAPEST = ("resnet10", "resnet32", "resnet18", "resnet34", "vit_tiny", "resnet50", "resnet152_places", "resnet152")
SETS = {  # data set -> its table
    "imagenet_lt": "imagenet",
    "inat18": "inat18",
    "places_lt": "places",
    "cifar10_lt_if100": "cifar10",
    "cifar100_lt_if100": "cifar100",
}
EVERY_TIME = ("cifar100_lt_if100", "places_lt")  # the other sets are for `make miniatures`
# Not here: lists that the authors published name real files; ImageNet-BAL is 160,000 of them.
WITHOUT = ("btm_official", "livt_bal")
MORE = {"imagenet_lt": {"resnext50": ["ce", "ride3_bf"], "resnet50": ["ce", "mislas", "bagmar", "ride3_ea"]}}


def methods(dataset: str) -> dict[str, list[str]]:
    """What the set's tables list, each with its cheapest network: network -> methods."""
    found: dict[str, list[str]] = {}
    tables = [SETS[dataset], *(["livt_cifar"] if dataset.startswith("cifar") else [])]
    for entry in dict.fromkeys(e for table in tables for e in CONFIG.methods(table)):
        archs = CONFIG.archs(entry.split("/")[0], dataset)
        if archs and entry not in WITHOUT:
            found.setdefault(next((a for a in CHEAPEST if a in archs), archs[0]), []).append(entry)
    for arch, more in MORE.get(dataset, {}).items():
        found[arch] = list(dict.fromkeys(found.get(arch, []) + more))
    return found


def shrink(value: Any) -> None:
    """At most 64 pixels wherever a recipe names a size of its own (ViTs: 16 patches instead of 196 or 576)."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key == "image" and "size" in (inner or {}):
            inner["size"] = min(64, inner["size"])
        shrink(inner)


def small_params() -> dict[str, Any]:
    """params.yaml for small images and batches."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    shrink(params["recipes"])
    for body in params["datasets"].values():
        if body.get("image", {}).get("size") == 224:
            body["image"]["size"] = 32
    params["overlays"]["smoke"]["train"] |= {"batch": 4, "lr": 1e-3}  # at rates for 512 images logits overflow
    redraw = params["recipes"]["ipdpp"]["sets"]["cifar100_lt"]["stages"]["finetune"]["redraw"]
    redraw["k"] = 490  # every image of a class above k is looked at: of one class instead of 50
    return params


def generated(dataset: str, root: Path) -> None:
    if not dataset.startswith("cifar"):
        small_tree(dataset, root)
        return
    name = dataset.split("_")[0]
    rehearse(f"{name}_lt", root / name, cap=600, test_per_class=1)
    small_tree("imagenet_lt", root)  # its ViTs start from ImageNet-LT's masked pre-training


def prepared(folder: Path, dataset: str) -> tuple[Path, dict[str, list[str]]]:
    """A checkout with a table a network, `mini_<network>`."""
    tree, chosen = checkout(folder), methods(dataset)
    params = small_params()
    params["grid"] |= {"tables": {}, "figures": {}}
    params["tables"] = {
        f"mini_{arch}": {"datasets": [dataset], "methods": names, "archs": {dataset: [arch]}}
        for arch, names in chosen.items()
    }
    (tree / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return tree, chosen


def rows(tree: Path, arch: str) -> Iterator[dict[str, str]]:
    with open(tree / "results" / "tables" / f"mini_{arch}_smoke.csv", newline="") as file:
        yield from (row for row in csv.DictReader(file) if row["seed"] == "0")


@pytest.mark.parametrize(
    "dataset", [pytest.param(s, marks=getattr(pytest.mark, "slow" if s in EVERY_TIME else "miniature")) for s in SETS]
)
def test_every_recipe_reaches_a_table_row(tmp_path: Path, dataset: str) -> None:
    generated(dataset, tmp_path / "data")
    tree, chosen = prepared(tmp_path / "tree", dataset)
    targets = [f"results/tables/mini_{arch}_smoke.csv" for arch in chosen]
    done = warm_snakemake(tree, "--cores", "2", *targets, data=tmp_path / "data")
    assert done.returncode == 0, done.stderr[-4000:]
    for arch, names in chosen.items():
        found = {row["method"]: row for row in rows(tree, arch)}
        assert set(found) == set(names)
        assert all(row["top1"] and float(row["gmacs"]) > 0 for row in found.values())
        for method, row in found.items():
            if method.startswith("ride") and not method.startswith("ride_bf"):
                assert 1 <= float(row["experts"]) <= int(method[4])
    runs = tree / f"results/{dataset}_smoke"
    arch = next(a for a, names in chosen.items() if "crt" in names)
    pairs = {"crt/stage2": "ce/train"} | ({} if arch == "resnet32" else {"balms/stage2": "ce/train"})
    for second, first in pairs.items():
        frozen_stays(runs, arch, first, second)
    if not dataset.startswith("cifar"):
        frozen_stays(runs, "resnet50" if "resnet50" in chosen else arch, "mislas/stage1", "bagmar/train")


def frozen_stays(runs: Path, arch: str, *stages: str) -> None:
    """A second stage moves the classifier and the running statistics, nothing else."""
    paths = (
        runs / method / arch / "seed0" / node / "model.safetensors" for method, node in (s.split("/") for s in stages)
    )
    first, second = map(load_file, paths)
    moved = {n for n in first if not np.array_equal(first[n], second[n])}
    assert {"fc.weight", "fc.bias"} <= moved, stages
    statistics = {n for n in moved if n.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert statistics and all(n.startswith("fc.") for n in moved - statistics), (stages, moved)
