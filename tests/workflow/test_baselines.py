"""The baselines in the graph: their curves against loops written from the formulas, their rows, the large sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import reference_loop as reference
from safetensors.numpy import load_file
from trees import ROOT, adding, break_line, checkout, golden_failures, plan_of, snakemake

from lt.config import Config, Run, load

CONFIG = load(ROOT / "params.yaml")
EPOCHS, LR = 3, 0.001  # a larger rate amplifies rounding from step to step
PAGE = ROOT / "docs" / "baselines.md"
ONE_STAGE = ("ce", "focal", "cb_ce", "cb_focal", "balanced_softmax", "logit_adjustment", "lade", "eql", "remix")
SAMPLING = ("ce_class_balanced", "ce_square_root", "ce_progressive")
POSTHOC = ("ce_pn", "ce_pn_tau", "logit_adjustment_posthoc", "tau_norm", "tau_norm_test", "ncm")
TWO_STAGE = ("crt", "lws", "decoupled_balanced_softmax", "balms")
LARGE = {"imagenet_lt": "resnet10", "inat18": "resnet50", "places_lt": "resnet152_places"}


def node(method: str) -> str:
    return CONFIG.final_stage(method)


def metrics(dataset: str, method: str, arch: str = "resnet8", seed: int = 0) -> str:
    return f"results/metrics/{dataset}/{method}/{arch}/seed{seed}/{node(method)}/manifest.json"


def read(tree: Path, manifest: str) -> dict:
    return json.loads((tree / manifest).with_name("metrics.json").read_text())


def short(folder: Path) -> tuple[Path, Config]:
    """A checkout whose overlay `short` trains every stage for three epochs."""
    tree = checkout(folder)
    adding(tree, overlays={"short": {"train": {"epochs": EPOCHS, "lr": LR}}})
    return tree, load(tree / "params.yaml")


def trained(tree: Path, methods: tuple[str, ...]) -> None:
    wanted = [f"results/digits_short/{m}/resnet8/seed0/train/manifest.json" for m in methods]
    done = snakemake(tree, "--cores", "1", *wanted)
    assert done.returncode == 0, done.stderr[-3000:]


def off(tree: Path, config: Config, method: str) -> float:
    """How far the run's curve is from the loop written from the formulas."""
    folder = tree / "results/digits_short" / method / "resnet8/seed0/train"
    run = Run("digits_short", method, "resnet8", 0)
    expected = reference.curve(config, run, tree / "results/digits_short/split0")
    found = reference.history(folder)
    assert len(found) == len(expected) == EPOCHS
    return float(np.max(np.abs(np.array(found) / np.array(expected) - 1)))


@pytest.mark.slow
def test_curves_are_those_of_the_formulas(tmp_path: Path) -> None:
    tree, config = short(tmp_path)
    trained(tree, ONE_STAGE)
    worst = {method: off(tree, config, method) for method in ONE_STAGE}
    assert max(worst.values()) < 1e-5, worst
    assert len({tuple(reference.history(tree / f"results/digits_short/{m}/resnet8/seed0/train"))
                for m in ONE_STAGE}) == len(ONE_STAGE) - 1  # logit adjustment is balanced softmax  # fmt: skip


BROKEN = {  # recipe: golden test, file of the loss, line, wrong line
    "focal": ("test_ride_losses.py::test_focal", "softmax.py", "gamma=self.gamma", "gamma=1.5"),
    "balanced_softmax": ("test_bagmar_losses.py::test_value_and_gradient[bs_mean]",
        "balanced.py", "logits + (shift if", "logits - (shift if"),
    "cb_ce": ("test_livt_losses.py::test_value_and_gradient[A/CB_CE/hard]",
        "balanced.py", "(1.0 - np.power(beta, counts))", "(1.0 - np.power(beta, counts) / 2)"),
}  # fmt: skip


@pytest.mark.slow
def test_one_wrong_line_shows_in_the_curve_and_in_the_golden_numbers(tmp_path: Path) -> None:
    tree, config = short(tmp_path)
    for _, *change in BROKEN.values():
        break_line(tree, *change)
    trained(tree, tuple(BROKEN))
    for method in BROKEN:
        assert off(tree, config, method) > 1e-3, method
    golden = {test for test, *_ in BROKEN.values()}
    assert golden_failures(tree, *golden) == golden


@pytest.mark.slow
def test_a_step_on_stored_predictions_trains_nothing(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    done = snakemake(tree, "--cores", "1", *(metrics("digits", m) for m in POSTHOC))
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.parts[-5] for p in (tree / "results/digits").glob("*/*/*/train/manifest.json")] == ["ce"]
    found = {m: read(tree, metrics("digits", m)) for m in POSTHOC}
    assert found["tau_norm"]["tau_selected_on"] == "val" and found["tau_norm_test"]["tau_selected_on"] == "test"
    assert found["ce_pn_tau"]["pn_stats"] == "test" and len(found["ce_pn_tau"]["sweep"]["taus"]) == 21
    assert min(f["metrics"]["top1"] for f in found.values()) > 70
    test = found["tau_norm_test"]
    assert max(test["sweep"]["top1"]) == pytest.approx(test["metrics"]["top1"])
    assert test["metrics"]["top1"] >= found["tau_norm"]["metrics"]["top1"]


@pytest.mark.slow
def test_a_second_stage_trains_the_classifier_alone(tmp_path: Path) -> None:
    tree, _ = short(tmp_path)
    wanted = [f"results/digits_short/{m}/resnet8/seed0/stage2/manifest.json" for m in TWO_STAGE]
    done = snakemake(tree, "--cores", "1", *wanted)
    assert done.returncode == 0, done.stderr[-3000:]
    first = load_file(tree / "results/digits_short/ce/resnet8/seed0/train/model.safetensors")
    for manifest in wanted:
        second = load_file((tree / manifest).with_name("model.safetensors"))
        moved = {name for name in first if not np.array_equal(first[name], second[name])}
        statistics = {name for name in first if "running" in name or "tracked" in name}
        own = set() if "/lws/" in manifest else {"fc.weight", "fc.bias"}
        assert moved == statistics | own, manifest
        assert ("fc.scales" in second) == ("/lws/" in manifest)


def test_every_baseline_has_a_source_and_a_row_on_every_set() -> None:
    tables = {"digits_full", "fashion", "cifar10", "cifar100", "imagenet", "inat18", "places"}
    for method in (*ONE_STAGE, "mixup", "ldam_drw", *POSTHOC, *TWO_STAGE):
        for table in tables:
            chosen = {run.method for run, _ in CONFIG.rows(table)}
            needs_val = method in ("ce_pn_tau",) and table in ("cifar10", "cifar100", "inat18")
            own = method == "tau_norm_test" and table in ("fashion", "imagenet", "places")
            assert method in chosen or needs_val or own, (method, table)
    for run, reported in {(r, n) for t in tables for r, n in CONFIG.rows(t)}:
        if CONFIG.meta(run.method, "paper") == "baselines":
            home, name = CONFIG.home(run, reported.rstrip("0123456789") if "branch" in reported else reported)
            assert CONFIG.stage(home, name).source, run


def test_balms_takes_no_test_image() -> None:
    for dataset in ("digits", *LARGE):
        run = Run(dataset, "balms", CONFIG.archs("balms", dataset)[0], 0)
        stage = CONFIG.stage(run, "stage2").params
        assert stage.task == "meta" and stage.sampler.name == "meta" and stage.meta.times >= 1
        assert stage.trainable == "head" and stage.load == "backbone"


def commands(page: Path) -> list[str]:
    return sorted(set(re.findall(r"`?(snakemake --cores all [^`\n|]+)`?", page.read_text())))


def test_the_page_names_recipes_that_are_there() -> None:
    recipes = PAGE.read_text().split("## Recipes")[1].split("## Their commands")[0]
    named = set(re.findall(r"^\| `([a-z0-9_]+)` \|", recipes, flags=re.M))
    assert {*ONE_STAGE, *SAMPLING, *POSTHOC, *TWO_STAGE, "ce_balms", "mixup", "ldam_drw"} == named
    assert named <= set(CONFIG.params.recipes)


@pytest.mark.slow
def test_each_documented_command_has_a_plan(tmp_path: Path) -> None:
    found = commands(PAGE)
    assert len(found) >= 5
    assert "baseline_train" in plan_of(checkout(tmp_path), found)
