"""What every job pays before it works: planning, imports, `lt --help`."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import peak
from bench.harness import Result, at_most, judge, slope

pytestmark = pytest.mark.bench
ROOT = Path(__file__).resolve().parent.parent


def cpu_of(command, cwd=ROOT):
    """CPU seconds of a process and its children; its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout + done.stderr


STARTS = [
    ("lt --help", ["-m", "lt.cli", "--help"]),
    ("evaluate", ["scripts/evaluate.py", "--help"]),
    ("tabulate", ["scripts/tabulate.py", "--help"]),
    ("plot", ["scripts/plot.py", "--help"]),
]


@pytest.mark.parametrize(("name", "command"), STARTS, ids=[s[0] for s in STARTS])
def test_start_up(name, command, gate):
    """P16: what it takes to say what one can do."""
    run = lambda: cpu_of([sys.executable, *command])[0]  # noqa: E731
    gate(lambda: at_most("P16", f"start-up of {name}, CPU", run, 0.6, kind="seconds"))


RUN = "digits_smoke/ce/resnet8/seed0"
HOME, SPLIT = f"results/{RUN}", "--split results/digits_smoke/split0/manifest.json"
MODEL, PREDICTED = f"{HOME}/train/manifest.json", f"{HOME}/predictions/test/train/manifest.json"
WITHOUT_TORCH, WITH_TORCH = 1.5, 3.5
JOBS = {  # each needs those before it
    "recipes": (f"recipe.py --run {RUN}", WITHOUT_TORCH),
    "recipe of a split": ("recipe.py --run digits_smoke", WITHOUT_TORCH),
    "recipe of a table": ("recipe.py --table digits_smoke", WITHOUT_TORCH),
    "split": (f"split.py --recipe results/digits_smoke/recipe/split0.json --out {SPLIT.split()[1]}", WITHOUT_TORCH),
    "train, two steps": (f"train.py --recipe {HOME}/recipe/train.json {SPLIT} --out {MODEL}", WITH_TORCH),
    "predict": (
        f"predict.py --recipe {HOME}/recipe/predict.json {SPLIT} --model {MODEL} --part test --out {PREDICTED}",
        WITH_TORCH,
    ),
    "evaluate": (
        f"evaluate.py --recipe {HOME}/recipe/evaluate.json --predictions {PREDICTED} {SPLIT} "
        f"--out results/metrics/{RUN}/train/manifest.json",
        WITHOUT_TORCH,
    ),
    "tabulate": (
        "tabulate.py --recipe results/recipes/digits_smoke.json --out results/tables/digits_smoke.csv",
        WITHOUT_TORCH,
    ),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_of_tree(tmp_path_factory.mktemp("jobs"))


@pytest.mark.parametrize("name", JOBS)
def test_whole_jobs(name, gate, tree):
    """A job with next to nothing to do, from the start of Python to its artefact."""
    command, limit = JOBS[name]
    script, *given = command.split()
    run = lambda: cpu_of([sys.executable, f"scripts/{script}", *given], tree)[0]  # noqa: E731
    gate(lambda: at_most("start", f"whole job: {name}, CPU", run, limit, kind="seconds", repeats=2))


def copy_of_tree(folder, seeds=None):
    """What planning reads, elsewhere: a plan may not touch the results of this tree."""
    tree = folder / "tree"
    for name in ("lt", "scripts", "workflow", "profiles"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "params.yaml", "environment.yml"):
        shutil.copy(ROOT / name, tree / name)
    if seeds is not None:
        text = (tree / "params.yaml").read_text()
        text = re.sub(r"(?m)^seeds: .*$", f"seeds: {list(range(seeds))}", text, count=1)
        (tree / "params.yaml").write_text(text)
    return tree


def plan(tree, table):
    """CPU seconds and jobs of a dry run."""
    seconds, text = cpu_of(
        [sys.executable, "-m", "snakemake", "-n", "--cores", "1", f"results/tables/{table}.csv"], tree
    )
    return seconds, int(re.search(r"(?m)^total\s+(\d+)", text)[1])


@pytest.mark.parametrize("table", ["imagenet", "cifar100"])
def test_plan(table, gate, tmp_path):
    """Any plan: at most 1.5 ms a job and 3 s, ImageNet's at most 10 s. The largest table stands for the others."""
    tree = copy_of_tree(tmp_path)

    def measure():
        seconds, jobs = plan(tree, table)
        return planned(f"dry run of table {table}, {jobs:,} jobs", seconds, min(10, 3 + 1.5e-3 * jobs))

    gate(measure)


def planned(what, seconds, limit, extra=None):
    busy = 1.0 if peak.idle_cores() < 0 else 0.0  # a plan is too long to be repeated until it is quiet
    return Result("plan", what, seconds, limit, judge(seconds <= limit, busy), kind="seconds", extra=extra or {})


def test_plan_grows_with_the_jobs(gate, tmp_path):
    """The same with 40 seeds; exponent of what is above the start in the number of runs at most 1.3."""
    found = [plan(copy_of_tree(tmp_path / str(seeds), seeds), "digits") for seeds in (1, 8, 40)]
    (start, few), (_, _), (seconds, jobs) = found
    extra = {"jobs": [j for _, j in found], "seconds": [s for s, _ in found]}
    gate(lambda: planned(f"dry run of table digits, {jobs:,} jobs", seconds, 3 + 1.5e-3 * jobs, extra))
    grown = [(j - few, max(s - start, 1e-3)) for s, j in found[1:]]
    exponent, busy = slope(*zip(*grown, strict=True)), 1.0 if peak.idle_cores() < 0 else 0.0
    gate(lambda: Result("growth", "planning, in runs", exponent, 1.3, judge(exponent <= 1.3, busy), kind="exponent"))
