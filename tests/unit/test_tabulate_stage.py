"""The `tabulate` stage: planned comparisons beside the table, and the bootstrap's intervals in it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lt import artefact, stats, tables
from lt.config import Run, load
from lt.stages import recipe as recipes
from lt.stages.evaluate import bootstrap_of
from lt.stages.tabulate import tabulate

TOP1 = {"btm": [80.0, 83.0, 82.0, 85.0, 84.0], "mislas": [78.0, 82.5, 80.0, 81.0, 83.5], "ce": [70.0, 71.0]}


def recipe(seeds: int, pairs: list[list[str]]) -> dict:
    rows = []
    for method, values in TOP1.items():
        for seed, top1 in enumerate(values[:seeds]):
            folder = Path(f"results/metrics/toy/{method}/resnet8/seed{seed}/train")
            found = {"metrics": {"top1": top1}, "cost": {"wall_s": 1.0, "peak_mb": 2.0}}
            found["bootstrap"] = {"top1_images": [top1 - 2, top1 + 2 + seed], "top1_classes": [top1 - 9, top1 + 7]}
            with artefact.commit(folder, recipe={}, inputs={}) as draft:
                (draft / "metrics.json").write_text(json.dumps(found))
            manifest = str(folder / "manifest.json")
            rows.append({"manifest": manifest, "dataset": "toy", "method": method, "arch": "resnet8", "seed": seed})
    return {"stage": "tabulate", "table": "toy", "rows": rows, "comparisons": pairs}


def made(tmp_path: Path, seeds: int, pairs: list[list[str]]) -> list[dict[str, str]]:
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(seeds, pairs)))
    tabulate(tmp_path / "recipe.json", out=tmp_path / "toy.csv")
    with open(tmp_path / "toy.comparisons.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_five_seeds_have_p_values_and_holm_counts_the_planned_pairs_only(tmp_path: Path) -> None:
    rows = made(tmp_path, 5, [["btm", "mislas"], ["mislas", "btm"], ["btm", "ce"], ["btm", "absent"]])
    assert [(r["a"], r["b"], r["seeds"]) for r in rows] == [
        ("btm", "mislas", "5"),
        ("mislas", "btm", "5"),
        ("btm", "ce", "2"),
    ]
    d = np.array(TOP1["btm"]) - TOP1["mislas"]
    assert float(rows[0]["p"]) == pytest.approx(stats.paired_t(d), abs=1e-4)
    assert float(rows[0]["p_holm"]) == pytest.approx(2 * stats.paired_t(d), abs=1e-4)
    assert rows[2]["p"] == rows[2]["p_holm"] == "" and rows[2]["low"]
    text = (tmp_path / "toy.md").read_text()
    assert text.index("## Every seed") < text.index("## Planned comparisons") and "+1.80" in text


def test_below_five_seeds_an_interval_and_no_p(tmp_path: Path) -> None:
    rows = made(tmp_path, 4, [["btm", "mislas"]])
    s = stats.summary(np.array(TOP1["btm"][:4]) - TOP1["mislas"][:4])
    assert rows[0]["p"] == rows[0]["p_holm"] == ""
    assert (float(rows[0]["low"]), float(rows[0]["high"])) == pytest.approx((s.low, s.high), abs=0.005)


def test_nothing_planned_is_an_empty_list_and_no_section(tmp_path: Path) -> None:
    assert made(tmp_path, 3, []) == [] and "Planned" not in (tmp_path / "toy.md").read_text()
    assert (tmp_path / "toy.comparisons.csv").read_text().startswith("set,arch,metric,a,b,seeds")


def test_half_widths_of_the_bootstrap_stand_in_the_table(tmp_path: Path) -> None:
    made(tmp_path, 2, [])
    with open(tmp_path / "toy.csv") as file:
        rows = [r for r in csv.DictReader(file) if r["method"] == "btm"]
    assert [r["top1_images_ci95"] for r in rows] == ["2.00", "2.50", "2.25"]
    assert [r["top1_classes_ci95"] for r in rows] == ["8.00", "8.00", "8.00"]


def test_intervals_of_one_run() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 100)
    hits = random.random(1000) < np.linspace(0.3, 0.98, 10)[labels]
    pred = np.where(hits, labels, (labels + 1) % 10)
    found = bootstrap_of(pred, labels, 12, seed=0)
    assert found == bootstrap_of(pred, labels, 12, seed=0) != bootstrap_of(pred, labels, 12, seed=1)
    rate = np.array([hits[labels == c].mean() for c in range(10)])
    image_se = 100 * np.sqrt((rate * (1 - rate) / 100).sum()) / 10
    class_se = 100 * rate.std() / np.sqrt(10)
    for name, se in (("top1_images", image_se), ("top1_classes", class_se)):
        low, high = found[name]
        assert low < 100 * hits.mean() < high and (high - low) / 2 == pytest.approx(1.96 * se, rel=0.12)
    hm = 1 / (1 / rate).mean()
    by_delta = (
        100 * hm**2 / 10 * np.sqrt((rate * (1 - rate) / 100 / rate**4).sum())
    )  # HM's slope in a_c: HM^2 / (C a_c^2)
    low, high = found["hm_images"]
    assert low < 100 * hm < high and (high - low) / 2 == pytest.approx(1.96 * by_delta, rel=0.15)
    low, high = found["hm_classes"]
    assert low < 100 * hm < high and (high - low) / 2 == pytest.approx(
        1.96 * 100 * hm**2 * (1 / rate).std() / 10**0.5, rel=0.25
    )


def test_an_undertrained_row_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    config = load()
    fashion = "fashion_mnist_lt_if100"
    for dataset, method, arch, expected in (
        (fashion, "livt", "vit_fashion", True),
        (fashion, "mae_ce", "vit_fashion", True),
        (fashion, "ipdpp_paper", "resnet8", True),
        (fashion, "x_bns_all_one_crt", "resnet8", True),
        (fashion, "ce", "resnet8", False),
        ("digits", "livt", "vit_digits", False),
    ):
        row = recipes.of_row(config, Run(dataset, method, arch, 0), config.final_stage(method), True)
        assert row["undertrained"] is expected, method
        row = {k: v for k, v in row.items() if k != "manifest"} | {"metrics": {"top1": 50.0}}
        verdict = tables.tabulate([row], [], "t")["verdict"][1]
        assert verdict == ("not published (undertrained)" if expected else "not published")
