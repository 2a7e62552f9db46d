"""A clean checkout of the project: what is missing stops everything before the first job; a plan needs no data."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trees import listing

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("lt", "scripts", "workflow", "profiles", "Snakefile", "params.yaml", "environment.yml")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def snakemake(folder: Path, *given: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "LT_DATA_ROOT"}
    command = [sys.executable, "-m", "snakemake", *given]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)


def cpu_of_children() -> float:
    """Seconds that a quiet machine would take: one process, which waits for nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def lines(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("lt: ")]


def test_one_line_for_each_missing_input(checkout: Path) -> None:
    before = cpu_of_children()
    done = snakemake(checkout, "--cores", "all", "results/tables/imagenet.csv")
    took = cpu_of_children() - before
    assert done.returncode == 2, done.stderr
    found = lines(done)
    assert len(found) == len(set(found)) == 6
    parent = [line for line in found if "imagenet_bal" in line]  # LiVT's row that is pre-trained on the balanced set
    assert len(parent) == 2 and "ImageNet_LT_test.txt" in parent[1]
    found = [line for line in found if line not in parent]
    assert "data/imagenet_lt" in found[0] and "LT_DATA_ROOT" in found[0] and "paths.local.yaml" in found[0]
    for name, line in zip(("train", "val", "test"), found[1:], strict=True):
        assert f"ImageNet_LT_{name}.txt" in line and "data/lists" in line
    assert "Traceback" not in done.stderr
    assert not (checkout / "results").exists(), "a job ran"
    assert took < 10
    again = snakemake(checkout, "--cores", "all", "results/tables/imagenet.csv")
    assert again.returncode == 2 and "lock" not in again.stderr.lower().replace("unlock", "")


def test_what_is_there_is_not_listed(checkout: Path) -> None:
    (checkout / "data" / "imagenet_lt").mkdir(parents=True)
    (checkout / "data" / "lists").mkdir()
    (checkout / "data" / "lists" / "ImageNet_LT_train.txt").write_text("train/a/b.jpg 0\n")
    done = snakemake(checkout, "--cores", "1", "results/tables/imagenet.csv")
    assert done.returncode == 2
    own = [line for line in lines(done) if line.startswith("lt: imagenet_lt:")]
    assert [line.split()[4] for line in own] == ["ImageNet_LT_val.txt", "ImageNet_LT_test.txt"]


def test_the_whole_plan_without_data(checkout: Path) -> None:
    before = cpu_of_children()
    done = snakemake(checkout, "-n", "results/tables/imagenet.csv")
    assert done.returncode == 0, done.stderr
    assert cpu_of_children() - before < 10
    for job in ("split ", "baseline_train", "predict", "evaluate", "tabulate"):
        assert f"\n{job}" in done.stdout + done.stderr
    assert not lines(done)


def test_sets_that_carry_their_data_are_not_stopped(checkout: Path) -> None:
    done = snakemake(checkout, "--cores", "1", "results/digits/split0/manifest.json")
    assert done.returncode == 0, done.stderr
    assert (checkout / "results" / "digits" / "split0" / "manifest.json").is_file()


@pytest.mark.parametrize("wrong, nearest", [("metrics/digits/btn", "'btm'"), ("digit/btm", "'digits'")])
def test_a_mistyped_run_names_the_nearest(checkout: Path, wrong: str, nearest: str) -> None:
    done = snakemake(checkout, "-n", f"results/{wrong}/resnet8/seed0/stage2/manifest.json")
    assert done.returncode == 2 and len(lines(done)) == 1 and f"did you mean {nearest}" in lines(done)[0]


@pytest.mark.parametrize("name", ["ce;touch executed", "../../digits/ce", "$(touch executed)"])
def test_a_hostile_name_is_one_line_and_nothing_is_written(checkout: Path, name: str) -> None:
    """As a target and as the stage that a file is to stand in for."""
    before = listing(checkout)
    stage = f"results/digits/{name}/resnet8/seed0/train"
    done = snakemake(checkout, "--cores", "1", "--", f"{stage}/manifest.json")
    assert done.returncode == 2 and len(lines(done)) == 1 and "no '..'" in lines(done)[0]
    assert "Traceback" not in done.stderr and listing(checkout) == before
    command = [sys.executable, "-m", "lt.cli", "import", "params.yaml", "--as", stage]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("lt: --as ") and done.stderr.count("\n") == 1
    assert listing(checkout) == before
