"""MiSLAS and BTM in the graph: documented commands, N different branches, merges."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from trees import ROOT, checkout, only_table, plan_of, seed_rows, snakemake, warm_snakemake

from lt.config import Run, load
from lt.sampling.balanced import expected_overlap, overlap_deviation

PAGE = (ROOT / "docs" / "btm.md").read_text()
COMMANDS = sorted(set(re.findall(r"`?(snakemake --cores all [^`\n|]+)`?", PAGE)))
RUN = "results/digits/btm/resnet8/seed0"


def test_the_page_names_every_recipe_of_the_two_papers() -> None:
    config = load(ROOT / "params.yaml")
    ours = {m for m in config.params.recipes if config.meta(m, "paper") in ("mislas", "btm")}
    assert ours == set(re.findall(r"`((?:mislas|btm|crt_|lws_)[a-z0-9_]*)`", PAGE)) & set(config.params.recipes)


def test_the_numbers_to_expect_are_the_published_ones() -> None:
    config, known = load(ROOT / "params.yaml"), yaml.safe_load((ROOT / "lt" / "published.yaml").read_text())["results"]
    rows = re.findall(r"^\| `([a-z0-9_/]+)` \| (?:yes|no) \|.*?\| (\d.*) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 10
    for recipe, cells in rows:
        name, _, node = recipe.partition("/")
        said = config.meta(name, "published")
        method = said[node] if node else said if isinstance(said, str) else name
        for arch, cell in zip(("resnet50", "resnet101", "resnet152"), cells.split(" | "), strict=True):
            values = dict(zip(("top1", "ece"), map(float, re.findall(r"[\d.]+", cell)), strict=True))
            wanted = {"dataset": "imagenet_lt", "method": method, "arch": arch, "source": "mislas_ablation"}
            assert any(wanted.items() <= row.items() and row["values"] == values for row in known), (recipe, arch)


def test_stage_one_is_trained_once_and_shared() -> None:
    config = load(ROOT / "params.yaml")
    home = {
        str(config.home(Run("digits", m, "resnet8", 0), "stage1")) for m in ("mislas", "btm", "btm_k5", "lws_mixup")
    }
    assert home == {str((Run("digits", "mislas", "resnet8", 0), "stage1"))}
    assert config.home(Run("digits", "mixup", "resnet8", 0), "train") == (
        Run("digits", "mislas", "resnet8", 0),
        "stage1",
    )


def test_the_plan_has_n_branches_of_n_subsets(tmp_path: Path) -> None:
    done = snakemake(checkout(tmp_path), "-n", "results/imagenet_lt/btm/resnet50/seed0/stage2/manifest.json")
    plan = done.stdout + done.stderr
    assert done.returncode == 0, plan
    for job, count in (("btm_stage1", 1), ("subset", 10), ("btm_branch", 10), ("btm_merge", 1), ("btm_stage2", 1)):
        assert re.search(rf"\n{job} +{count}\n", plan), job


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ("inat18/btm_greedy/resnet50", "greedy_soup scores on validation images; inat18 has none"),
        ("digits/btm_official/resnet8", "recipes.btm_official: for imagenet_lt, places_lt only; not for digits"),
    ],
)
def test_what_a_set_cannot_have_is_refused_before_any_job(tmp_path: Path, run: str, line: str) -> None:
    done = snakemake(checkout(tmp_path), "--cores", "1", f"results/metrics/{run}/seed0/stage2/manifest.json")
    said = [text for text in done.stderr.splitlines() if text.startswith("lt: ")]
    assert done.returncode == 2 and len(said) == 1 and line in said[0], done.stderr
    assert not (tmp_path / "results").exists()


def test_titles_are_true_on_every_set() -> None:
    config = load(ROOT / "params.yaml")
    for dataset in ("digits", "fashion_mnist_lt_if100", "cifar10_lt_if100", "imagenet_lt", "inat18", "places_lt"):
        found = config.archs("btm_official", dataset)
        assert bool(found) == (dataset in ("imagenet_lt", "places_lt"))
        for arch in found:
            rule = config.stage(Run(dataset, "btm_official", arch, 0), "subset").params.rule
            assert rule.name == "official" and dataset.startswith(rule.options()["dataset"])
        for arch in config.archs("btm_lr005", dataset):
            branch = config.stage(Run(dataset, "btm_lr005", arch, 0), "branch")
            assert branch.params.lr == 0.005 and not branch.verified
    scratch = config.stage(Run("places_lt", "btm_scratch", "resnet152_places", 0), "branch").params
    assert (scratch.load, scratch.trainable, scratch.pretrained) == ("none", "block+head", "resnet152")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BTM on digits, merged in every way, with two steps a stage."""
    tree = checkout(tmp_path_factory.mktemp("btm"))
    methods = [
        "mislas",
        "btm",
        "btm/branch0",
        "btm/merge",
        "btm_published",
        "btm_soup",
        "btm_greedy",
        "btm_half",
        "btm_rebn",
    ]
    only_table(tree, ["digits"], methods, {})
    done = warm_snakemake(tree, "--cores", "2", "results/tables/rows_smoke.csv")
    assert done.returncode == 0, done.stderr[-4000:]
    assert {r["method"] for r in seed_rows(tree, "rows_smoke")} == set(methods)
    return tree


@pytest.mark.slow
def test_branches_differ_and_the_merge_is_none_of_them(made: Path) -> None:
    smoke = made / RUN.replace("digits", "digits_smoke")
    lists = [np.load(smoke / f"subsets/subset{i}/indices.npy") for i in range(2)]
    counts = np.load(made / "results/digits_smoke/split0/class_counts.npy")
    shared = len(np.intersect1d(*lists))
    assert abs(shared - expected_overlap(counts, 10)) <= 4 * overlap_deviation(counts, 10) and shared < len(lists[0])
    weights = [load_file(smoke / f"branches/branch{i}/model.safetensors") for i in range(2)]
    merged = load_file(smoke / "merge/model.safetensors")
    for one, other in itertools.combinations([*weights, merged], 2):
        assert any(not np.array_equal(one[k], other[k]) for k in one)
    for name, value in merged.items():
        mean = (weights[0][name].astype(np.float64) + weights[1][name]) / 2
        if name.endswith("num_batches_tracked"):
            assert value == np.rint(mean), name
        else:
            np.testing.assert_allclose(value, mean, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_every_merge_rule_makes_its_own_network(made: Path) -> None:
    names = ("btm", "btm_half", "btm_rebn")
    found = {m: load_file(made / f"results/digits_smoke/{m}/resnet8/seed0/merge/model.safetensors") for m in names}
    stage1 = load_file(made / "results/digits_smoke/mislas/resnet8/seed0/stage1/model.safetensors")
    key = "layer1.0.conv1.weight"
    np.testing.assert_allclose(found["btm_half"][key], (found["btm"][key] + stage1[key]) / 2, rtol=1e-5, atol=1e-7)
    assert np.array_equal(found["btm_rebn"][key], found["btm"][key])
    assert not np.array_equal(found["btm_rebn"]["bn1.running_mean"], found["btm"]["bn1.running_mean"])
    chosen = json.loads((made / "results/digits_smoke/btm_greedy/resnet8/seed0/merge/manifest.json").read_text())[
        "chosen"
    ]
    assert 1 <= len(chosen) <= 2


@pytest.mark.slow
def test_each_documented_command_has_a_plan(tmp_path: Path) -> None:
    plan = plan_of(checkout(tmp_path), COMMANDS)
    assert "btm_branch" in plan and "mislas_stage2" in plan
