"""Each large set's baseline under both drivers: generated images in the set's own layout, two steps, a table row.

The images are read-only, and what they were afterwards.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from small_project import Project, make
from trees import read_only, seed_rows, small_tree

from lt.data.splits import Split

SETS = {
    "imagenet_lt": "resnet10",
    "imagenet_bal": "resnet10",
    "inat18": "resnet50",
    "places_lt": "resnet152_places",
    "cifar10_lt_if100": "resnet32",
    "cifar100_lt_if100": "resnet32",
}
TABLE = "results/tables/mine_smoke.csv"


def only_ce(dataset: str, arch: str) -> Callable[[str], str]:
    """params.yaml with this one row, for both drivers."""

    def small(text: str) -> str:
        params = yaml.safe_load(text)
        params["recipes"], params["crossings"] = {"ce": params["recipes"]["ce"]}, {}
        params["tables"] = {"mine": {"datasets": [dataset], "methods": ["ce"], "archs": {dataset: [arch]}}}
        params["overlays"]["smoke"]["train"] |= {"batch": 4, "lr": 1e-3}
        nothing = {key: [] for key, value in params["grid"].items() if isinstance(value, list)}
        params["grid"] = nothing | {
            "datasets": [f"{dataset}_smoke"], "archs": [arch], "seeds": [0], "baselines": ["ce"], "figures": {},
            "tables": {"mine_smoke": f"results/metrics/{dataset}_smoke"},
        }  # fmt: skip
        for body in params["datasets"].values():
            if body.get("image", {}).get("size") == 224:
                body["image"]["size"] = 64
        return yaml.safe_dump(params, sort_keys=False)

    return small


def made(project: Project, dataset: str) -> dict[str, str]:
    """The manifests of all artefacts but the metrics, which hold wall times; after a look at the table's row."""
    (row,) = (row for row in seed_rows(project.root, "mine_smoke") if row["seed"] == "0")
    assert row["set"] == f"{dataset}_smoke" and row["method"] == "ce" and row["top1"]
    base = project.root / "results"
    found = {str(path.relative_to(base)): path.read_text() for path in base.rglob("manifest.json")}
    return {name: text for name, text in found.items() if not name.startswith("metrics/")} | {"top1": row["top1"]}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", SETS)
def test_a_row_by_each_driver(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    family = dataset.removesuffix("_if100")
    small_tree(family, data)
    monkeypatch.setenv("LT_DATA_ROOT", str(data))
    first, second = (make(tmp_path / name, {}, git=False, params=only_ce(dataset, SETS[dataset])) for name in "ab")
    with read_only(data):
        first.run("dvc", "repro")
        assert first.status() == []
        second.run("snakemake", "--cores", "1", TABLE)
    assert len(made(first, dataset)) == 4  # split, weights, predictions, the row's accuracy
    assert made(first, dataset) == made(second, dataset)
    for driver, project in (("snakemake", first), ("dvc", second)):
        assert "up to date" in project.run("python", "scripts/adopt.py", driver, "mine_smoke")
    if dataset == "imagenet_bal":
        split = Split.read(first.root / "results/imagenet_bal_smoke/split0")
        assert split.class_counts.tolist() == [160] * 1000  # of 161 names
        shutil.rmtree(data)
