"""Plans of ten thousand jobs and a lab's, and a hundred tiny jobs, in processor time. `make bench` has the seconds."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_project import environment
from trees import checkout

pytestmark = pytest.mark.slow
WITHOUT_TORCH = 1.5  # seconds: what a job may cost before it works


def costs(tree: Path, *command: str) -> tuple[float, str]:
    """Processor seconds of a command and its children, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tree, env=environment(tree.parent), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout + done.stderr


def edited(tree: Path, **sections: object) -> None:
    path = tree / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections, sort_keys=False))


def planned(tree: Path, *tables: str) -> tuple[float, int, str]:
    seconds, said = costs(tree, "lt.cli", "status", "--plan", *tables)
    return seconds, int(re.search(r"^plan: (\d+) jobs", said, flags=re.M)[1]), said


def test_a_plan_of_ten_thousand_jobs_grows_with_their_number(tmp_path: Path) -> None:
    tree, found = checkout(tmp_path / "tree"), []
    for seeds in (1, 40, 150):
        edited(tree, seeds=list(range(seeds)))
        found.append(planned(tree, "digits")[:2])
    (start, few), (some, half), (all_of_it, jobs) = found
    exponent = np.log((all_of_it - start) / (some - start)) / np.log((jobs - few) / (half - few))
    told = f"{jobs:,} jobs in {all_of_it:.1f} s, {half:,} in {some:.1f} s, {few} in {start:.1f} s"
    print(f"\n{told}; exponent {exponent:.2f}")
    assert jobs >= 10_000 and exponent <= 1.3


def test_a_labs_plan_is_counted_and_costed(tmp_path: Path) -> None:
    """Every paper and baseline on every set by five seeds; hours and bytes where something alike was measured."""
    tree = checkout(tmp_path / "tree")
    tables = yaml.safe_load((tree / "params.yaml").read_text())["tables"]
    tables = {t: body | {"seeds": [0, 1, 2, 3, 4]} for t, body in tables.items() if not t.startswith("crossed")}
    edited(tree, tables=tables)
    run = "imagenet_lt/ce/resnext50/seed7/train"
    (tree / "benchmarks" / run).parent.mkdir(parents=True)
    (tree / "benchmarks" / f"{run}.tsv").write_text("s\th:m:s\n72000\t20:00:00\n")
    (tree / "results" / run).mkdir(parents=True)
    (tree / "results" / run / "manifest.json").write_bytes(b"x" * 2**20)
    seconds, jobs, said = planned(tree, *tables)
    print(f"\n{jobs:,} jobs in {seconds:.1f} s")
    print(said[said.index("plan: ") :])
    assert jobs > 10_000
    assert "measured: 100.000 job hours, 100.000 GPU hours" in said  # five seeds of 20 hours on a GPU
    assert "storage: 5.0 MiB for jobs whose like is there" in said
    never = int(re.search(r"; (\d+) jobs never measured", said)[1])
    assert 0 < never < jobs


def test_a_hundred_tiny_jobs_stay_within_their_start_up(tmp_path: Path) -> None:
    """A hundred splits of digits; each job starts Python, reads its images and draws."""
    tree = checkout(tmp_path / "tree")
    params = yaml.safe_load((tree / "params.yaml").read_text())
    names = [f"digits{number}" for number in range(100)]
    edited(tree, datasets=params["datasets"] | {name: {"extends": "digits"} for name in names})
    targets = [f"results/{name}/split0/manifest.json" for name in names]
    seconds, _ = costs(tree, "snakemake", "--cores", str(os.cpu_count()), "-q", "all", "--", *targets)
    print(f"\n100 jobs: {seconds:.0f} s, {seconds / 100:.2f} s a job, planning and the driver included")
    assert all((tree / target).exists() for target in targets)
    assert seconds <= 100 * WITHOUT_TORCH
