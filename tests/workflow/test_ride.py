"""RIDE and BatchFormer in the graph: documented commands, the shared teacher, small rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from trees import ROOT, checkout, plan_of, snakemake

from lt.config import Run, load

PAGE = (ROOT / "docs" / "ride.md").read_text()
COMMANDS = sorted(set(re.findall(r"`?(snakemake --cores all [^`\n|]+)`?", PAGE)))
OURS = ("ride2", "ride3", "ride4", "ride6", "ride3_distill", "ride4_distill", "ride3_bf", "ride3_distill_bf")
ROUTED = ("ride2_ea", "ride3_ea", "ride4_ea", "ride3_distill_ea", "ride4_distill_ea")
OTHERS = ("ride_bf_add1", "ride3_tau_norm", "ldam_drw", "bs_bf")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("ride"))


def test_the_page_names_every_recipe_and_each_recipe_is_there() -> None:
    recipes = set(load(ROOT / "params.yaml").params.recipes)
    named = set(re.findall(r"`((?:ride|bs_bf|ldam_drw)[a-z0-9_]*)`", PAGE)) & recipes
    assert named == {*OURS, *ROUTED, *OTHERS}


def test_every_documented_path_is_a_stage_that_the_recipes_have() -> None:
    config, found = load(ROOT / "params.yaml"), 0
    for path in re.findall(r"results/(?!tables)([a-z0-9_/]+)/manifest\.json", PAGE):
        parts = path.removeprefix("metrics/").split("/")
        run, stage = Run.parse("/".join(parts[:4])), parts[4]
        assert stage in config.stage_names(run.method) and run.arch in config.archs(run.method, run.dataset), path
        assert config.stage(run, stage).verb in ("train", "merge")
        found += 1
    assert found >= 15


def test_students_share_one_teacher(tree: Path) -> None:
    wanted = [f"results/digits/{m}/resnet8/seed0/stage1/manifest.json" for m in ("ride3_distill", "ride3_distill_bf")]
    done = snakemake(tree, "-n", *wanted)
    assert done.returncode == 0, done.stderr
    plan = done.stdout + done.stderr
    assert plan.count("output: results/digits/ride6/resnet8/seed0/stage1/manifest.json") == 1
    assert re.search(r"\nride_stage1 +3\n", plan)


@pytest.mark.slow
def test_each_documented_command_has_a_plan(tmp_path: Path) -> None:
    plan = plan_of(checkout(tmp_path), COMMANDS)
    assert "ride_stage1" in plan and "ride_ea" in plan


@pytest.mark.slow
def test_the_router_spends_between_one_and_all_experts_on_digits(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    wanted = [f"results/metrics/digits/{m}/resnet8/seed0/{s}/manifest.json" for m, s in
              (("ride3_ea", "ea"), ("ride3", "stage1"), ("ride3_bf", "stage1"))]  # fmt: skip
    done = snakemake(tree, "--cores", "2", *wanted)
    assert done.returncode == 0, done.stderr
    routed, plain, former = (json.loads((tree / w).with_name("metrics.json").read_text()) for w in wanted)
    shares = routed["experts_used"]["all"]
    assert 1 < routed["experts"] < 3 and sum(s > 0 for s in shares) >= 2 and sum(shares) == pytest.approx(1)
    assert plain["experts"] == 3 and plain["metrics"]["top1"] > 85 and former["metrics"]["top1"] > 85
    assert abs(routed["metrics"]["top1"] - plain["metrics"]["top1"]) < 3
    assert 0 < routed["gmacs"] < plain["gmacs"] and plain["gmacs_published"] < plain["gmacs"]
