"""What must run after a change. One row a change; both drivers start from the same finished table.

Recipes are written again whenever code or parameters were touched and are not counted: they cost nothing, and one
that says the same as before makes nothing run. Where the drivers differ, the row says so, and what closes the gap.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from small_project import ROOT, Project

RUN, METRICS = "results/digits_smoke", "results/metrics/digits_smoke"
TABLE = "results/tables/digits_smoke"
CE, MISLAS = f"{RUN}/ce/resnet8/seed0", f"{RUN}/mislas/resnet8/seed0"
NOTHING: frozenset[str] = frozenset()
STAGE2 = frozenset(
    {f"{MISLAS}/stage2", f"{MISLAS}/predictions/test/stage2", f"{METRICS}/mislas/resnet8/seed0/stage2", TABLE}
)
EVALUATIONS = frozenset(
    {f"{METRICS}/{m}/resnet8/seed0/{n}" for m, n in (("ce", "train"), ("mixup", "train"), ("mislas", "stage2"))}
    | {TABLE}
)


def rewrite(project: Project, change: Callable[[dict], None]) -> None:
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    change(params)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def stage2_lr(project: Project) -> None:
    rewrite(project, lambda p: p["recipes"]["mislas"]["stages"]["stage2"].update(lr=0.0123))


def unused_parameter(project: Project) -> None:
    rewrite(project, lambda p: p["datasets"]["imagenet_lt"].update(class_map="legacy"))


def appended(file: str, text: str) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        with open(project.root / file, "a") as stream:
            stream.write(text)

    return change


def delete_intermediate(project: Project) -> None:
    shutil.rmtree(project.root / MISLAS / "stage1")


def corrupt_output(project: Project) -> None:
    with open(project.root / CE / "train/model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")


def touch_everything(project: Project) -> None:
    for path in sorted(project.root.rglob("*")):
        if path.is_file() and not {".git", ".dvc", ".snakemake"} & set(path.parts):
            os.utime(path)


def same_times(project: Project) -> None:
    for path in project.root.rglob("*"):
        os.utime(path, (1e9, 1e9))


def clock_skew(project: Project) -> None:
    """A node whose clock is a day ahead wrote the split, one a day behind the table."""
    day = 86400
    for name, ahead in ((f"{RUN}/split0/manifest.json", day), (f"{TABLE}.csv", -day), (f"{CE}/recipe/train.json", day)):
        os.utime(project.root / name, (time.time() + ahead,) * 2)


def other_revision_and_back(project: Project) -> None:
    stage2_lr(project)
    project.run("git", "commit", "-q", "-a", "-m", "Another rate")
    project.run("git", "checkout", "-q", "HEAD~1")


def run_other_revision_and_back(project: Project) -> None:
    """The other revision is finished, too; its results lie in the tree until `dvc checkout`."""
    stage2_lr(project)
    project.dvc()
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "Another rate")
    project.run("git", "checkout", "-q", "HEAD~1")
    project.run("dvc", "checkout", "-q")
    project.adopt("snakemake")


def dvc_checkout(project: Project) -> None:
    shutil.rmtree(project.root / RUN)
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q")


def move(project: Project) -> None:
    moved = project.root.with_name("elsewhere")
    project.root.rename(moved)
    project.root = moved


@dataclass(frozen=True)
class Row:
    """`status`: whether `dvc status` names anything; `notice`: what our own layer says where Snakemake says nothing."""

    change: Callable[[Project], None]
    snakemake: frozenset[str] = NOTHING
    dvc: frozenset[str] = NOTHING
    status: bool = False
    notice: str = ""


TABLE_OF_CHANGES = {
    "a parameter of one stage": Row(stage2_lr, STAGE2, STAGE2, status=True),
    "a parameter nobody uses": Row(unused_parameter, status=True),
    "a comment in a used module": Row(appended("lt/stages/train.py", "\n# a remark\n"), status=True),
    "an unrelated module": Row(appended("lt/figures/cost.py", "\nREMARK = 1\n"), status=True),
    "a used module": Row(appended("lt/stages/evaluate.py", "\nREMARK = 1\n"), EVALUATIONS, EVALUATIONS, status=True),
    # Snakemake does not look at files whose users are finished, nor inside an artefact: DVC brings both back from
    # its cache (nothing runs), and reading a damaged artefact stops with a line that names it.
    "an intermediate deleted": Row(delete_intermediate, status=True, notice="stage1"),
    "an output corrupted": Row(corrupt_output, status=True, notice="model.safetensors: changed since it was written"),
    "everything touched": Row(touch_everything),
    "another revision and back": Row(other_revision_and_back),
    "another revision run, and back": Row(run_other_revision_and_back),
    "results deleted, dvc checkout": Row(dvc_checkout),
    "the folder moved": Row(move),
    "clock skew": Row(clock_skew),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_OF_CHANGES)
def test_change(finished: Project, tmp_path: Path, name: str) -> None:
    row, project = TABLE_OF_CHANGES[name], finished.copy(tmp_path / "project")
    row.change(project)
    assert project.planned() == row.snakemake
    assert bool(project.status()) == row.status
    if row.notice:
        told = project.adopt("dvc", check=False)
        assert row.notice in told and "Traceback" not in told
    assert project.dvc() == row.dvc
    project.adopt("snakemake")  # checks every digest, and that neither driver has anything left to do
    assert project.planned() == NOTHING and project.status() == []


def shown(command: str) -> list[str]:
    """What docs/dvc.md shows of a command's output."""
    text = (ROOT / "docs/dvc.md").read_text().split(f"    $ {command}\n", 1)[1]
    lines = text.split("\n\n", 1)[0].split("    $ ", 1)[0].splitlines()
    return [line.removeprefix("    ") for line in lines if line.strip() != "..."]


@pytest.mark.slow
def test_an_experiment(finished: Project, tmp_path: Path) -> None:
    """`dvc exp run -S` runs what the edit would make run; every command that compares says the same of it."""
    project, key = finished.copy(tmp_path / "project"), "recipes.mislas.stages.stage2.lr"
    table, curve = project.root / f"{TABLE}.json", project.root / MISLAS / "stage2/history.csv"
    before, curve_before = json.loads(table.read_text()), curve.read_text()
    command = f"dvc exp run -S {key}=0.05"
    text = project.run(*command.split(), "--name", "half")
    assert project.ran(text) == STAGE2
    assert [line for line in shown(command) if " stage" in line.lower() and line not in text] == []
    after = json.loads(table.read_text())
    assert after["ce"] == before["ce"] and after["mislas"] != before["mislas"]

    def told(*arguments: str) -> dict:
        return json.loads(project.run("dvc", *arguments, "--json"))

    assert told("params", "diff") == {"params.yaml": {key: {"old": 0.1, "new": 0.05, "diff": -0.05}}}
    assert project.run("dvc", "params", "diff").split() == " ".join(shown("dvc params diff")).split()
    assert told("metrics", "show")[""]["data"][f"{TABLE}.json"]["data"] == after
    changed = told("metrics", "diff")[f"{TABLE}.json"]
    assert changed and {name.split(".")[0] for name in changed} == {"mislas"}
    for name, values in changed.items():
        metric = name.removeprefix("mislas.")
        assert values["old"] == before["mislas"][metric] != values["new"] == after["mislas"][metric]

    page = Path(project.run("dvc", "plots", "diff").strip().removeprefix("file://")).read_text()
    points = [point for point in re.findall(r'{[^{}]*"rev": "[^{}]*}', page) if "loss" in point]
    for revision, rows in (("HEAD", curve_before), ("workspace", curve.read_text())):
        loss = list(csv.DictReader(rows.splitlines()))[-1]["loss"]
        assert any(f'"{revision}"' in point and f'"{loss}"' in point for point in points), (revision, loss)

    listed = csv.DictReader(project.run("dvc", "exp", "show", "--csv").splitlines())
    rows = {row["Experiment"] or row["rev"]: row for row in listed}
    branch = project.run("git", "branch", "--show-current").strip()
    for name, lr, values in (("half", 0.05, after), (branch, 0.1, before)):
        assert float(rows[name][key]) == lr and float(rows[name]["mislas.top1"]) == values["mislas"]["top1"]
    assert project.status() == []


@pytest.mark.slow
def test_snakemake_runs_what_it_planned(finished: Project, tmp_path: Path) -> None:
    """The same edit through the other driver."""
    project = finished.copy(tmp_path / "project")
    stage2_lr(project)
    assert project.snakemake() == STAGE2
    project.adopt("dvc")
    assert project.status() == [] and project.dvc() == NOTHING


@pytest.mark.slow
def test_results_copied_without_records(finished: Project, tmp_path: Path) -> None:
    """What another revision made is never taken for up to date, neither without records nor with blind ones."""
    project = finished.copy(tmp_path / "project")
    shutil.rmtree(project.root / ".snakemake")
    same_times(project)
    assert project.planned() == NOTHING
    appended("lt/stages/evaluate.py", "\nREMARK = 1\n")(project)
    assert project.planned() == EVALUATIONS
    project.run("snakemake", "--touch", "--forceall", "--cores", "1", f"{TABLE}.csv")
    assert project.planned() == EVALUATIONS
    told = project.run("python", "-m", "lt.cli", "status", "digits_smoke")
    assert told.count("\nstale ") == 2 and told.startswith("stale ") and "3 stale of 3" in told
    assert project.snakemake() == EVALUATIONS and project.planned() == NOTHING
    stage2_lr(project)
    shutil.rmtree(project.root / ".snakemake")
    assert project.planned() == STAGE2


MINI = {
    "source": "list",
    "family": "mini",
    "num_classes": 2,
    "image": {"size": 8, "mean": [0.5] * 3, "std": [0.5] * 3},
    "lists": {"train": "mini_train.txt", "test": "mini_test.txt"},
    "class_map": "stable",
}


@pytest.mark.slow
def test_a_list_file_edited(project: Project) -> None:
    """Both drivers see a list in data/lists through the split's recipe; a test list does not touch the split."""

    def change(params: dict) -> None:
        params["datasets"]["mini"] = MINI
        params["grid"] |= {"datasets": ["mini"], "baselines": [], "mixup": [], "mislas": [], "tables": {}}

    rewrite(project, change)
    lists, images = project.root / "data/lists", project.root / "data/mini"
    images.mkdir()
    (lists / "mini_train.txt").write_text("a/1.jpg 0\na/2.jpg 0\nb/1.jpg 1\n")
    (lists / "mini_test.txt").write_text("a/3.jpg 0\nb/2.jpg 1\n")
    images.chmod(0o555)
    split = "results/mini/split0"
    target = f"{split}/manifest.json"

    def planned() -> bool:
        return "rule split:" in project.run("snakemake", "-n", "--cores", "1", target)

    def repro() -> bool:
        return "Running stage 'split@mini'" in project.run("dvc", "repro", "split@mini")

    assert planned() and repro()
    project.run("snakemake", "--touch", "--forceall", "--cores", "1", target)
    assert not planned() and not repro()
    (lists / "unrelated.txt").write_text("a/1.jpg 0\n")
    assert not planned() and not repro()
    (lists / "mini_train.txt").write_bytes(b"a/1.jpg 0\r\na/2.jpg 0\r\nb/1.jpg 1\r\n")  # other line ends, same list
    assert not planned() and not repro()
    (lists / "mini_test.txt").write_text("a/3.jpg 0\nb/3.jpg 1\n")
    assert not planned() and not repro()
    (lists / "mini_train.txt").write_text("a/1.jpg 0\nb/1.jpg 1\na/4.jpg 0\n")
    assert planned() and repro()
    assert list(images.iterdir()) == []  # nothing is written beside the images
