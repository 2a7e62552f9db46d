"""A short training on digits in a folder of its own, run as a user runs it: a process of `scripts/train.py`."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

from lt import artefact, config
from lt.stages import recipe as recipes
from lt.stages.split import split

ROOT = Path(__file__).resolve().parents[2]
RUN = "results/digits/ce/resnet8/seed0"
OUT = f"{RUN}/train/manifest.json"
SPLIT = "results/digits/split0/manifest.json"
SHORT = {"epochs": 3, "steps": 4, "batch": 32, "accumulate": 2, "eval_every": 2, "snapshots_every": 1}


def recipe_of(**changes) -> dict:
    """The recipe of cross-entropy on digits, shortened: 3 epochs of 2 updates of 2 micro-batches of 16."""
    known = config.load(ROOT / "params.yaml")
    found = copy.deepcopy(recipes.of_stage(known, config.Run.parse("digits/ce/resnet8/seed0"), "train"))
    found["params"].update({**SHORT, **changes})
    return found


def folder(path: Path, monkeypatch, **changes) -> Path:
    """A project folder with a split and the recipe of one training stage."""
    path.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(path)
    known = config.load(ROOT / "params.yaml")
    recipes.write("results/digits/recipe/split0.json", recipes.of_split(known, "digits", 0))
    split("results/digits/recipe/split0.json", out=SPLIT)
    write(path, **changes)
    return path


def write(path: Path, **changes) -> None:
    recipes.write(path / RUN / "recipe/train.json", recipe_of(**changes))


def command(*more: str, ranks: int = 0) -> list[str]:
    start = [sys.executable]
    if ranks:
        start += [str(ROOT / "scripts" / "launch.py"), "--standalone", "--nproc-per-node", str(ranks)]
    given = ["--recipe", f"{RUN}/recipe/train.json", "--split", SPLIT, "--out", OUT]
    return [*start, str(ROOT / "scripts" / "train.py"), *given, *more]


def environment(breaking: str = "", *, threads: int = 1, every: float = 0, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "LT_", "OMP"))}
    return kept | {
        "PYTHONPATH": str(ROOT / "tests" / "faults" / "hooks"),
        "OMP_NUM_THREADS": str(threads),
        "LT_SAVE_EVERY_S": str(every),
        "LT_TEST_BREAK": breaking,
        "LT_TEST_END": "end.txt",
        **more,
    }


def train(path: Path, breaking: str = "", *more: str, ranks: int = 0, **given) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*more, ranks=ranks),
        cwd=path,
        env=environment(breaking, **given),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def result(path: Path) -> dict[str, str]:
    """What two equal runs have in common: weights, optimiser and all other state, history, snapshots, manifest."""
    made = artefact.read(path / OUT)
    names = [n for n in made.manifest["outputs"] if n != artefact.RUN]
    return {
        "state": (path / "end.txt").read_text(),
        "manifest": made.digest,
        **{n: artefact.sha256(made / n) for n in names},
    }


def states(path: Path) -> list[Path]:
    return sorted((path / "scratch").glob("**/state-*.pt"), key=lambda p: int(p.stem.split("-")[1]))
