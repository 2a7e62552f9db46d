"""BaGMar in the graph: its curve against a loop written from the formulas, shared predictions, the large sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import reference_loop as reference
from trees import ROOT, adding, break_line, checkout, golden_failures, plan_of, snakemake

from lt import posthoc
from lt.config import Config, Run, load

CONFIG = load(ROOT / "params.yaml")
EPOCHS, LR = 3, 0.01  # a larger rate amplifies rounding from step to step
PAGE = ROOT / "docs" / "bagmar.md"
TRAINED = ("bagmar", "bagmar_ce", "bagmar_lambda1", "bagmar_paper", "bagmar_single")
PN = ("bagmar_pn", "bagmar_pn_tau", "bagmar_pn_tau_test", "bagmar_pn_val", "bagmar_pn_train", "bagmar_ce_pn")
BEST = ("bagmar_best", "bagmar_pn_best")


def short(folder: Path) -> tuple[Path, Config]:
    """A checkout whose overlay `short` trains every stage for three epochs."""
    tree = checkout(folder)
    adding(tree, overlays={"short": {"train": {"epochs": EPOCHS, "lr": LR}}})
    return tree, load(tree / "params.yaml")


def curves(tree: Path, config: Config, *methods: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the run wrote and what the formulas say, by method."""
    folder = "results/digits_short/{}/resnet8/seed0/train"
    done = snakemake(tree, "--cores", "1", *(f"{folder}/manifest.json".format(m) for m in methods))
    assert done.returncode == 0, done.stderr[-3000:]
    split = tree / "results/digits_short/split0"
    return {
        m: (
            np.array(reference.history(tree / folder.format(m))),
            np.array(reference.curve(config, Run("digits_short", m, "resnet8", 0), split)),
        )
        for m in methods
    }


@pytest.mark.slow
def test_the_curve_is_that_of_the_formulas(tmp_path: Path) -> None:
    tree, config = short(tmp_path)
    found = curves(tree, config, "bagmar", "bagmar_lambda1", "bagmar_ce")
    for method, (ours, expected) in found.items():
        assert len(ours) == EPOCHS
        np.testing.assert_allclose(ours, expected, rtol=1e-5, err_msg=method)
    assert len({tuple(ours) for ours, _ in found.values()}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("rise = (lambda1 * torch.log(theta + eps))", "rise = torch.log(theta + eps)"),
        ("self.totals += self.sums if self.accumulate", "self.totals += self.pending if self.accumulate"),
        ("return value, gradient.div_(len(target))", "return value, gradient"),
    ],
)
def test_one_wrong_line_shows_in_the_curve_and_in_the_golden_numbers(tmp_path: Path, line: str, wrong: str) -> None:
    tree, config = short(tmp_path)
    break_line(tree, "margin.py", line, wrong)
    ours, expected = curves(tree, config, "bagmar")["bagmar"]
    assert np.max(np.abs(ours / expected - 1)) > 1e-3
    golden = "test_bagmar_gala.py::test_six_batches[gala_l12_l09]"
    assert golden_failures(tree, golden) == {golden}


@pytest.mark.slow
def test_prediction_normalisation_shares_the_predictions(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    wanted = {m: f"results/metrics/digits/{m}/resnet8/seed0/train/manifest.json" for m in (*PN, "bagmar")}
    done = snakemake(tree, "--cores", "1", *wanted.values())
    assert done.returncode == 0, done.stderr[-3000:]
    trained = {p.parts[-5] for p in (tree / "results/digits").glob("*/*/*/train/manifest.json")}
    assert trained == {"bagmar", "bagmar_ce"}
    found = {m: json.loads((tree / path).with_name("metrics.json").read_text()) for m, path in wanted.items()}
    folder = tree / "results/digits/bagmar/resnet8/seed0/predictions"
    stored = {part: dict(np.load(folder / part / "train/predictions.npz")) for part in ("test", "val", "train")}

    def top1(tau: float, on: str = "test", stats: str | None = None) -> float:
        p = np.exp(stored[on]["logits"].astype(np.float64))
        p /= p.sum(1, keepdims=True)
        other = posthoc.softmax(stored[stats or on]["logits"]).sum(0, dtype=np.float64)
        return 100 * float(((p / other**tau).argmax(1) == stored[on]["labels"]).mean())

    tops = {m: f["metrics"]["top1"] for m, f in found.items()}
    assert tops["bagmar"] > 85
    assert tops["bagmar"] == pytest.approx(top1(0.0)) and tops["bagmar_pn"] == pytest.approx(top1(1.0))
    assert tops["bagmar_pn_val"] == pytest.approx(top1(1.0, stats="val"))
    assert tops["bagmar_pn_train"] == pytest.approx(top1(1.0, stats="train"))
    taus = np.round(np.arange(21) / 10, 1)
    for method, on in (("bagmar_pn_tau", "val"), ("bagmar_pn_tau_test", "test")):
        best = taus[int(np.argmax([top1(t, on=on) for t in taus]))]
        assert found[method]["tau"] == pytest.approx(best) and found[method]["tau_selected_on"] == on
        assert tops[method] == pytest.approx(top1(best))


def test_one_stage_on_small_sets_and_two_on_large_ones() -> None:
    for dataset in ("digits", "fashion_mnist_lt_if100", "cifar10_lt_if10", "cifar100_lt_if200"):
        run = Run(dataset, "bagmar", CONFIG.archs("bagmar", dataset)[0], 0)
        assert "stage1" not in CONFIG.stages_of(run) and CONFIG.stage(run, "train").params.trainable == "all"
    for dataset in ("imagenet_lt", "inat18", "places_lt"):
        for arch in CONFIG.archs("bagmar", dataset):
            run = Run(dataset, "bagmar", arch, 0)
            home, stage = CONFIG.home(run, "stage1")
            assert (home.method, stage) in (("mislas", "stage1"), ("ce", "train"))
            assert arch in CONFIG.archs(home.method, dataset)
            train = CONFIG.stage(run, "train").params
            assert (train.trainable, train.load, train.bn) == ("head", "backbone", "train")
            assert train.sampler.name == "class_aware" and train.sampler.options()["discard"] == train.batch


def test_rows_and_sources() -> None:
    for table in ("digits_full", "fashion", "cifar10", "cifar100", "imagenet", "inat18", "places"):
        chosen = {run.method for run, _ in CONFIG.rows(table)}
        tuned = {"bagmar_pn_tau_test"} if table in ("cifar10", "cifar100", "inat18") else {"bagmar_pn_tau"}
        assert chosen >= {"bagmar", "bagmar_pn", "bagmar_ce", "bagmar_ce_pn", "ce", "ce_pn"} | tuned, table
    assert {run.method for run, _ in CONFIG.rows("digits")} & set(PN)
    assert {"bagmar_pn_tau", "ce_pn_tau"} <= {run.method for run, _ in CONFIG.rows("cifar100_holdout")}
    for run, node in {pair for t in CONFIG.params.tables for pair in CONFIG.rows(t)}:
        if CONFIG.meta(run.method, "paper") == "bagmar":
            home, name = CONFIG.home(run, node)
            assert CONFIG.stage(home, name).source, run
    assert CONFIG.meta("bagmar_pn_tau_test", "why_not") == "tau chosen on the test set"


def commands(page: Path) -> list[str]:
    return sorted(set(re.findall(r"`?(snakemake --cores all [^`\n|]+)`?", page.read_text())))


def test_the_page_names_recipes_that_are_there() -> None:
    recipes = PAGE.read_text().split("## Recipes")[1].split("## Their commands")[0]
    named = set(re.findall(r"^\| `([a-z0-9_]+)` \|", recipes, flags=re.M))
    assert named == {*TRAINED, *PN, *BEST}
    assert named == {m for m in CONFIG.params.recipes if CONFIG.meta(m, "paper") == "bagmar"}


@pytest.mark.slow
def test_each_documented_command_has_a_plan(tmp_path: Path) -> None:
    found = commands(PAGE)
    assert len(found) >= 8
    assert "bagmar" in plan_of(checkout(tmp_path), found)
