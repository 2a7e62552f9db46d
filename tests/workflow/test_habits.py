"""What an operator sees of a run that fails in part, and of the same command again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from small_project import METHODS, TABLE, Project, make

pytestmark = pytest.mark.slow
FAILING = "digits_smoke/ce/resnet8/seed0"


def rows(project: Project) -> dict[str, dict[str, str]]:
    with open(project.root / TABLE) as file:
        return {row["method"]: row for row in csv.DictReader(file) if row["seed"] != "mean"}


def learning_rate(project: Project, value: float) -> None:
    path = project.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["recipes"]["ce"]["sets"]["digits"]["stages"]["train"]["lr"] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def test_a_run_that_fails_in_part_and_the_same_command_again(tmp_path: Path) -> None:
    """Cross-entropy diverges; the others go on, and the table says what is missing and how to make it."""
    project = make(tmp_path / "project", METHODS, git=False)
    learning_rate(project, 1.0e30)
    said = project.run("snakemake", "--cores", "2", TABLE, check=False)
    found = rows(project)
    assert found["ce"]["verdict"] == f"missing: snakemake --cores all results/metrics/{FAILING}/train/manifest.json"
    assert found["mislas"]["top1"] and found["mixup"]["top1"] and not found["ce"]["top1"]
    told = [line for line in said.splitlines() if line.startswith(f"lt: failed   {FAILING}/train")]
    assert len(told) == 1 and "the loss is" in told[0] and f"(log logs/{FAILING}/train.log)" in told[0]
    status = project.run("python", "-m", "lt.cli", "status", "digits_smoke")
    assert told[0].removeprefix("lt: ") in status and "2 done, 1 failed of 3" in status

    again = project.run("snakemake", "-n", TABLE)
    assert FAILING in again and "rule tabulate" in again, "a table with missing rows is not a finished one"
    learning_rate(project, 0.1)
    made = project.snakemake()
    others = {name for name in made if name.startswith("results/digits_smoke") and FAILING not in name}
    assert not others, "what was finished is not made again"
    found = rows(project)
    assert all(float(row["job_s"]) > float(row["wall_s"]) > 0 and row["top1"] for row in found.values())
    names = lambda base: {path.with_suffix("").relative_to(base) for path in base.rglob("*.*") if path.is_file()}
    jobs = names(project.root / "benchmarks")
    assert jobs and jobs <= names(project.root / "logs"), "a log for every job"
