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
    ("P16", "lt --help", ["-m", "lt.cli", "--help"], 0.6),
    ("start", "evaluate", ["scripts/evaluate.py", "--help"], 0.6),
    ("start", "tabulate", ["scripts/tabulate.py", "--help"], 0.6),
    ("start", "recipe", ["scripts/recipe.py", "--table", "digits"], 1.5),
    ("start", "train", ["scripts/train.py", "--help"], 3.5),
    ("start", "predict", ["scripts/predict.py", "--help"], 3.5),
]


@pytest.mark.parametrize(("id", "name", "command", "limit"), STARTS, ids=[s[1] for s in STARTS])
def test_start_up(id, name, command, limit, gate, tmp_path):
    tree = copy_of_tree(tmp_path) if name == "recipe" else ROOT
    run = lambda: cpu_of([sys.executable, *command], tree)[0]  # noqa: E731
    gate(lambda: at_most(id, f"start-up of {name}, CPU", run, limit, kind="seconds"))


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


def test_plan_of_imagenet(gate, tmp_path):
    tree = copy_of_tree(tmp_path)

    def measure():
        seconds, jobs = plan(tree, "imagenet")
        return Result(
            "plan", f"dry run of table imagenet, {jobs:,} jobs", seconds, 10, judge(seconds <= 10, 1.0), kind="seconds"
        )

    gate(measure)


def test_plan_grows_with_the_jobs(gate, tmp_path):
    """At most 1.5 ms a job and 3 s; exponent of what is above the start in the number of runs at most 1.3."""
    found = [plan(copy_of_tree(tmp_path / str(seeds), seeds), "digits") for seeds in (1, 8, 40)]
    (start, few), (_, _), (seconds, jobs) = found
    limit = 3 + 1.5e-3 * jobs
    busy = 1.0 if peak.idle_cores() < 0 else 0.0
    extra = {"jobs": [j for _, j in found], "seconds": [s for s, _ in found]}
    what = f"dry run of table digits, {jobs:,} jobs"
    gate(lambda: Result("plan", what, seconds, limit, judge(seconds <= limit, busy), kind="seconds", extra=extra))
    grown = [(j - few, max(s - start, 1e-3)) for s, j in found[1:]]
    exponent = slope(*zip(*grown, strict=True))
    gate(lambda: Result("growth", "planning, in runs", exponent, 1.3, judge(exponent <= 1.3, busy), kind="exponent"))
