"""LiVT in the graph: documented commands, the shared pre-training, a small row."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from trees import ROOT, checkout, only_table, plan_of, seed_rows, small_tree, snakemake, warm_snakemake

from lt.config import Run, load
from lt.stages.recipe import of_row

PAGE = (ROOT / "docs" / "livt.md").read_text()
COMMANDS = sorted(set(re.findall(r"`?(snakemake --cores all [^`\n|]+)`?", PAGE)))
FROM_SCRATCH = ("vit_ce", "deit", "vit_balbce")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("livt"))


@pytest.fixture(scope="module")
def config():
    return load(ROOT / "params.yaml")


def test_the_page_names_every_recipe_and_each_recipe_is_there(config) -> None:
    recipes = {m for m in config.params.recipes if config.meta(m, "paper") == "livt"} | set(FROM_SCRATCH)
    named = set(re.findall(r"`((?:livt|mae|vit|deit)[a-z0-9_]*)`", PAGE))
    archs = {
        "vit_digits",
        "vit_fashion",
        "vit_tiny",
        "vit_small",
        "vit_base",
        "vit_large",
        "mae_base",
        "livt_mgp",
        "livt_bft",
    }
    assert named - archs - {"vit_base_patch16", "mae_vit_base_patch16"} == recipes
    assert len(recipes) > 20


def test_every_documented_path_is_a_stage_that_the_recipes_have(config) -> None:
    found = 0
    for path in re.findall(r"results/(?!tables)([a-z0-9_/]+)/manifest\.json", PAGE):
        parts = path.removeprefix("metrics/").split("/")
        run, stage = Run.parse("/".join(parts[:4])), parts[4]
        assert config.home(run, stage) == (run, stage), path
        assert config.stage(run, stage).params.epochs >= 1
        found += 1
    assert found >= 14


@pytest.mark.parametrize(
    ("run", "stage", "image", "numbers"),
    [  # batch, accumulation, rate, epochs, warm-up: what the six published logs' columns follow from
        ("imagenet_lt/mae/vit_base/seed0", "pretrain", 224, (1024, 2, 6e-4, 800, 40)),
        ("inat18/mae/vit_base/seed0", "pretrain", 128, (3072, 4, 1.8e-3, 800, 40)),
        ("imagenet_lt/livt/vit_base/seed0", "finetune", 224, (512, 4, 1e-3, 100, 5)),
        ("imagenet_lt/livt_384/vit_base/seed0", "finetune", 384, (1024, 8, 2e-3, 100, 5)),
        ("inat18/livt/vit_base/seed0", "finetune", 224, (2048, 8, 8e-3, 100, 5)),
        ("inat18/livt_384/vit_base/seed0", "finetune", 384, (1024, 8, 4e-3, 100, 5)),
    ],
)
def test_defaults_are_what_the_published_logs_show(config, run, stage, image, numbers) -> None:
    p = config.stage(Run.parse(run), stage).params
    warmup = p.schedule.options()["warmup_epochs"]
    assert (p.batch, p.accumulate, p.lr, p.epochs, warmup) == numbers
    assert p.image.size == image and p.steps == "floor" and config.stage(Run.parse(run), stage).verified


def test_one_pretraining_feeds_every_finetuning(config) -> None:
    for method in ("livt", "livt_384", "mae_ce", "livt_balce", "livt_token", "livt_lade"):
        home = config.home(Run("imagenet_lt", method, "vit_small", 1), "pretrain")
        assert home == (Run("imagenet_lt", "mae", "vit_small", 1), "pretrain")


def test_cifar_starts_from_the_other_data_set(config) -> None:
    for dataset in ("cifar10_lt_if10", "cifar100_lt_if100"):
        home, _ = config.home(Run(f"{dataset}_smoke", "livt", "vit_base", 0), "pretrain")
        assert home == Run("imagenet_lt_smoke", "mae", "vit_base", 0)
        own, _ = config.home(Run(dataset, "livt", "vit_tiny", 0), "pretrain")
        assert own == Run(dataset, "mae", "vit_tiny", 0)
    assert config.home(Run("imagenet_lt", "livt_bal", "vit_base", 0), "pretrain")[0].dataset == "imagenet_bal"


def test_a_plan_pretrains_once(tree: Path) -> None:
    wanted = [f"results/digits/{m}/vit_digits/seed0/finetune/manifest.json" for m in ("livt", "mae_ce", "livt_ldam")]
    done = snakemake(tree, "-n", *wanted)
    plan = done.stdout + done.stderr
    assert done.returncode == 0, plan
    assert plan.count("output: results/digits/mae/vit_digits/seed0/pretrain/manifest.json") == 1
    assert re.search(r"\nlivt_finetune +3\n", plan)


@pytest.mark.slow
def test_each_documented_command_has_a_plan(tmp_path: Path) -> None:
    plan = plan_of(checkout(tmp_path), COMMANDS)
    assert "livt_pretrain" in plan and "livt_finetune" in plan


@pytest.mark.slow
def test_pretraining_learns_and_finetuning_starts_from_it_on_digits(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    wanted = "results/metrics/digits/livt/vit_digits/seed0/finetune/manifest.json"
    done = snakemake(tree, "--cores", "2", wanted)
    assert done.returncode == 0, done.stderr
    losses = history(tree / "results/digits/mae/vit_digits/seed0/pretrain")["loss"]
    assert losses[-1] < 0.85 * losses[0]
    tuned = tree / "results/digits/livt/vit_digits/seed0/finetune"
    loaded = json.loads((tuned / "manifest.json").read_text())["loaded"]
    assert "52 entries taken" in loaded and "mask_token" in loaded and "fc_norm.weight" in loaded
    assert loaded in (tree / "logs/digits/livt/vit_digits/seed0/finetune.log").read_text()
    assert history(tuned)["loss"][0] < 5, "the first logits are nearly 0, the prior's odds carry the loss"
    assert json.loads((tree / wanted).with_name("metrics.json").read_text())["metrics"]["top1"] > 87


def history(stage: Path) -> dict[str, list[float]]:
    with open(stage / "history.csv") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}


@pytest.mark.slow
def test_images_of_both_resolutions_reach_a_row(tmp_path: Path) -> None:
    data, tree = tmp_path / "data", checkout(tmp_path / "tree")
    small_tree("imagenet_lt", data)
    only_table(tree, ["imagenet_lt"], ["livt", "livt_384"], {"imagenet_lt": ["vit_tiny"]})
    done = warm_snakemake(tree, "--cores", "2", "results/tables/rows_smoke.csv", data=data)
    assert done.returncode == 0, done.stderr[-4000:]
    sizes = {row["method"]: (row["resolution"], bool(row["top1"])) for row in seed_rows(tree, "rows_smoke")}
    assert sizes == {"livt": ("224", True), "livt_384": ("384", True)}


def test_a_row_says_the_resolution_of_its_last_training_stage(config) -> None:
    for method, size in (("livt", 224), ("livt_384", 384)):
        run = Run("imagenet_lt", method, "vit_base", 0)
        assert of_row(config, run, "finetune", final=True)["resolution"] == size
    assert of_row(config, Run("digits", "livt", "vit_digits", 0), "finetune", final=True)["resolution"] == 8
