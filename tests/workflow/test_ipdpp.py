"""BNS and IP-DPP in the graph: documented commands, published numbers, kills, imported files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trees import ROOT, checkout, plan_of, snakemake

from lt import artefact, models
from lt.config import Run, load
from lt.errors import UserError
from lt.stages import importing
from lt.stages.common import Recipe
from lt.stages.recipe import of_stage
from lt.stages.redraw import redraw_epochs

CONFIG = load(ROOT / "params.yaml")
PAGE = (ROOT / "docs" / "ipdpp.md").read_text()
COMMANDS = sorted(set(re.findall(r"`?(snakemake --cores all [^`\n|]+)`?", PAGE)))
TENSORS = json.loads((ROOT / "tests/golden/ipdpp/models.json").read_text())
METHODS = ("bns_lp", "bns_eq12", "ipdpp", "ipdpp_code", "ipdpp_paper", "ipdpp_uniform")
CIFAR = {"cifar10_lt_if100": "resnet18", "cifar100_lt_if100": "resnet34"}
LARGE = {"imagenet_lt": "resnet50", "inat18": "resnet50"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("ipdpp"))


def numbers(dataset: str, method: str, stage: str):
    arch = CIFAR.get(dataset) or LARGE.get(dataset) or ("resnet18" if "cifar10_" in dataset else "resnet34")
    return CONFIG.stage(*CONFIG.home(Run(dataset, method, arch, 0), stage)).params


def test_the_page_names_every_recipe() -> None:
    table = PAGE.split("## Which sampler is which")[1].split("## Their commands")[0]
    assert set(re.findall(r"^\| `([a-z0-9_]+)` \|", table, flags=re.M)) == {*METHODS, "btm_dpp"}


def test_every_documented_path_is_a_stage_that_the_recipes_have() -> None:
    paths = re.findall(r"results/(?!tables)([a-z0-9_/]+?)(?:/predictions/test)?/([a-z]+)(?:/manifest\.json|\n)", PAGE)
    for head, stage in paths:
        run = Run.parse(head.removeprefix("metrics/"))
        assert stage in CONFIG.stage_names(run.method) and run.arch in CONFIG.archs(run.method, run.dataset), head
    assert len(paths) >= 13


@pytest.mark.slow
def test_each_documented_command_has_a_plan(tmp_path: Path) -> None:
    plan = plan_of(checkout(tmp_path), COMMANDS)
    assert "ipdpp_pretrain" in plan


@pytest.mark.parametrize(
    ("dataset", "pretrain", "probe", "finetune"),
    [
        ("cifar10_lt_if100", (1024, 4e-3, 20, 2.0), (100, 20, 2.0), (500, 10, [0, *range(9, 90, 10)])),
        ("cifar100_lt_if100", (512, 2e-3, 20, 2.0), (50, 5, 1.0), (50, 20, [0, 19, 39, 59, 79])),
    ],
)
def test_published_numbers(dataset: str, pretrain: tuple, probe: tuple, finetune: tuple) -> None:
    p = numbers(dataset, "bns_lp", "pretrain")
    found = (p.batch, p.lr, p.schedule.options()["warmup_epochs"], p.augment.options()["jitter_strength"])
    assert found == pretrain
    assert (p.epochs, p.steps, p.weight_decay, p.optimizer.options()["betas"]) == (1000, "floor", 0.05, [0.9, 0.95])
    assert p.lr == pytest.approx(1e-3 * p.batch / 256)
    assert p.loss.options() == {"tau": 0.5} and p.head.options() == {"hidden": 2048, "width": 128}
    q = numbers(dataset, "bns_lp", "probe")
    subset = numbers(dataset, "bns_lp", "subset").rule.options()["k"]
    assert (subset, q.schedule.options()["warmup_epochs"], q.augment.options()["jitter_strength"]) == probe
    assert (q.epochs, q.batch, q.lr, q.trainable, q.bn) == (100, 64, 2.5e-4, "head", "train")
    f = numbers(dataset, "ipdpp", "finetune")
    assert (f.redraw.k, f.redraw.every, redraw_epochs(f.redraw.every, f.epochs)) == finetune
    assert (f.epochs, f.batch, f.lr, f.schedule.options()["warmup_epochs"]) == (100, 64, 2.5e-4, 5)
    assert f.augment.options()["jitter_strength"] == 1.0 and f.trainable == "all"
    assert (f.redraw.sampler, f.redraw.reseed, f.redraw.p_transform) == ("official", True, "train")
    for stage in (p, q, f):  # no normalisation anywhere
        assert (stage.image.mean, stage.image.std, stage.precision) == ([0.0] * 3, [1.0] * 3, "fp16")


def test_variants_differ_in_the_redraw_alone() -> None:
    base = numbers("cifar10_lt_if100", "ipdpp", "finetune").model_dump()
    for method, sampler, kernel in (("ipdpp_code", "exact", "code"), ("ipdpp_paper", "exact", "paper")):
        other = numbers("cifar10_lt_if100", method, "finetune").model_dump()
        drawn = other.pop("redraw")
        assert (drawn["sampler"], drawn["kernel"], drawn["k"], drawn["every"]) == (sampler, kernel, 500, 10)
        assert other == {k: v for k, v in base.items() if k != "redraw"}


@pytest.mark.parametrize(
    ("dataset", "k"),
    [("cifar10_lt_if10", 5000), ("cifar10_lt_if200", 250), ("cifar100_lt_if10", 500), ("cifar100_lt_if200", 20)],
)
def test_k_is_ten_times_the_smallest_class(dataset: str, k: int) -> None:
    assert numbers(dataset, "ipdpp_paper", "finetune").redraw.k == k


@pytest.mark.parametrize(("dataset", "size"), [("cifar10_lt_if100", "r18"), ("cifar100_lt_if100", "r34")])
def test_networks_hold_what_the_official_files_do(dataset: str, size: str) -> None:
    """Names and shapes, ours put back into theirs."""
    run, classes = Run(dataset, "bns_lp", CIFAR[dataset], 0), 10 if size == "r18" else 100
    for stage, table in (("pretrain", f"{size}_simclr"), ("probe", f"{size}_c{classes}_linmodel")):
        found = importing.network(Recipe(of_stage(CONFIG, run, stage))).state_dict()
        head = "projector." if stage == "pretrain" else "lin."
        theirs = {
            head + k.removeprefix("fc.") if k.startswith("fc.") else "enc." + k.replace("downsample", "shortcut"): v
            for k, v in found.items()
        }
        assert {k: list(v.shape) for k, v in theirs.items()} == {t[0]: t[1] for t in TENSORS[table]["tensors"]}


@pytest.mark.slow
def test_digits_rows_and_draws(tmp_path: Path) -> None:
    """The released sampler keeps one list, the paper's kernel the images of low p more often; BTM crosses."""
    tree = checkout(tmp_path)
    wanted = [f"results/metrics/digits/{m}/resnet8/seed0/{s}/manifest.json" for m, s in
              (("ipdpp", "finetune"), ("ipdpp_paper", "finetune"), ("bns_lp", "probe"))]  # fmt: skip
    crossing = "results/digits/btm_dpp/resnet8/seed0/subsets/subset1/manifest.json"
    done = snakemake(tree, "--cores", "2", *wanted, crossing)
    assert done.returncode == 0, done.stderr[-4000:]
    for path, least in zip(wanted, (80, 80, 70), strict=True):
        assert json.loads((tree / path).with_name("metrics.json").read_text())["metrics"]["top1"] > least
    records = {}
    for method in ("ipdpp", "ipdpp_paper"):
        made = artefact.read(tree / f"results/digits/{method}/resnet8/seed0/finetune")
        records[method] = json.loads((made / "draws/draws.json").read_text())
        assert [r["epoch"] for r in records[method]] == [0, 9, 19, 29]
        assert {f"draws/draw{i}.npy" for i in range(4)} <= set(made.manifest["outputs"])
    assert all(c["overlap"] == c["kept"] for r in records["ipdpp"][1:] for c in r["classes"])
    assert any(c["overlap"] < c["kept"] for r in records["ipdpp_paper"][1:] for c in r["classes"])
    subset = np.load((tree / crossing).with_name("indices.npy"))
    counts = np.load((tree / crossing).with_name("class_counts.npy"))
    assert len(subset) == counts.sum() and counts.max() == 10


def killed(tree: Path, run: str, *, when: float) -> None:
    """Fine-tune, and end the process by SIGTERM after so many seconds of its log having begun."""
    command = [sys.executable, "scripts/train.py", "--recipe", f"{run}/recipe/finetune.json",
               "--split", "results/digits/split0/manifest.json", "--out", f"{run}/finetune/manifest.json",
               "--init", "results/digits/bns_lp/resnet8/seed0/pretrain/manifest.json", "--log", "kill.log"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tree, env=environment, stderr=subprocess.DEVNULL)
    log = tree / "kill.log"
    while process.poll() is None and not (log.exists() and "epoch   12/40" in log.read_text()):
        time.sleep(0.02)
    time.sleep(when)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait()


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_in_the_same_bits(tmp_path: Path) -> None:
    tree, run = checkout(tmp_path), "results/digits/ipdpp_paper/resnet8/seed0"
    made = f"{run}/finetune/manifest.json"
    assert snakemake(tree, "--cores", "1", made).returncode == 0
    whole = {n: m["sha256"] for n, m in artefact.read(tree / made).manifest["outputs"].items()}
    for name in ("manifest.json", "model.safetensors"):
        (tree / run / "finetune" / name).unlink()
    killed(tree, run, when=0.1)
    assert not (tree / made).exists() and list((tree / "scratch").rglob("state-*.pt"))
    done = snakemake(tree, "--cores", "1", "--rerun-incomplete", made)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "resumed in epoch" in (tree / "logs/digits/ipdpp_paper/resnet8/seed0/finetune.log").read_text()
    assert {n: m["sha256"] for n, m in artefact.read(tree / made).manifest["outputs"].items()} == whole


def official(path: Path, head: str, **options) -> dict[str, torch.Tensor]:
    """A tiny file in the released container, with the object that theirs pickle."""
    import argparse

    model = models.build("resnet8", 10, seed=5, in_channels=1)
    if head == "projector.":
        models.set_head(model, "projector", seed=6, **options)
    state = model.state_dict()
    theirs = {head + k.removeprefix("fc.") if k.startswith("fc.") else f"enc.{k}": v for k, v in state.items()}
    torch.save({"model": theirs, "optimizer": {}, "epoch": 99, "scaler": {}, "args": argparse.Namespace(lr=1)}, path)
    return state


def import_file(tree: Path, file: Path, stage: str, *more: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "lt.cli", "import", str(file), "--as", stage, *more]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment, timeout=600)


@pytest.mark.slow
def test_official_files_stand_in_for_training(tmp_path: Path) -> None:
    """The released fine-tuning and probe files are evaluated as they are, the pre-training file saves its stage."""
    tree, home = checkout(tmp_path / "tree"), "digits_smoke/bns_lp/resnet8/seed0"
    state = official(tmp_path / "classifier.pth", "lin.")  # both kinds hold an encoder and `lin`
    official(tmp_path / "pretrain.pth", "projector.", hidden=128, width=32)
    wrong = import_file(tree, tmp_path / "pretrain.pth", f"results/{home}/probe")
    assert wrong.returncode == 2 and "fc.0.weight" in wrong.stderr
    stages = [f"{home}/probe", "digits_smoke/ipdpp/resnet8/seed0/finetune"]
    for stage in stages:
        done = import_file(tree, tmp_path / "classifier.pth", f"results/{stage}", "--plan")
        assert done.returncode == 0, done.stderr
    targets = [f"results/metrics/{stage}/manifest.json" for stage in stages]
    done = snakemake(tree, "--cores", "1", *targets)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not re.search("ipdpp_(pretrain|probe|finetune)", done.stdout + done.stderr)
    for stage, target in zip(stages, targets, strict=True):
        assert json.loads((tree / target).with_name("metrics.json").read_text())["metrics"]["top1"] >= 0
        weights = load_file(tree / f"results/{stage}/model.safetensors")
        assert all(torch.equal(weights[k], v) for k, v in state.items()), stage

    assert import_file(tree, tmp_path / "pretrain.pth", f"results/{home}/pretrain").returncode == 0
    plan = snakemake(tree, "-n", "results/digits_smoke/ipdpp_paper/resnet8/seed0/finetune/manifest.json")
    assert plan.returncode == 0 and "ipdpp_finetune" in plan.stdout + plan.stderr
    assert "ipdpp_pretrain" not in plan.stdout + plan.stderr


def test_a_probe_file_is_no_pretraining(tmp_path: Path) -> None:
    """The released fine-tuning loads the pre-training file only; the refusal says what is missing."""
    official(tmp_path / "probe.pth", "lin.")
    run = Run("digits", "bns_lp", "resnet8", 0)
    model = importing.network(Recipe(of_stage(CONFIG, run, "pretrain")))
    with pytest.raises(UserError, match=r"missing: fc\.0\.weight"):
        importing.read_into(model, tmp_path / "probe.pth")
