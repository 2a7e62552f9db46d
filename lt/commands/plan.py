"""What a run of some tables would start: jobs by rule, hours from benchmark files, GPUs from the cluster's profile,
storage from what is there."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from lt.errors import UserError

NUMBER = re.compile(r"(seed|branch|subset)\d+")
PROFILE = Path("profiles") / "slurm" / "config.yaml"


@dataclass
class Job:
    rule: str
    output: str = ""
    benchmark: str = ""


def plan_lines(tables: list[str]) -> Iterator[str]:
    jobs = planned([f"results/tables/{table}.csv" for table in tables])
    seconds, sizes, gpus = _seconds(), _sizes(), gpus_by_rule()
    known: dict[str, float] = defaultdict(float)
    unknown: Counter[str] = Counter()
    gpu_hours, stored, unsized = 0.0, 0, 0
    for job in jobs:
        cost = _estimate(seconds, job.benchmark)
        if cost is None:
            unknown[job.rule] += bool(job.benchmark)
        else:
            known[job.rule] += cost
            gpu_hours += gpus.get(job.rule, 0) * cost / 3600
        size = _estimate(sizes, job.output) if job.output.endswith("manifest.json") else 0
        stored, unsized = stored + int(size or 0), unsized + (size is None)
    counts = Counter(job.rule for job in jobs)
    yield f"plan: {len(jobs)} jobs"
    for rule, count in counts.most_common():
        hours = f"{known[rule] / 3600:10.3f} h" if rule in known else " " * 12
        missing = f"   {unknown[rule]} never measured" if unknown[rule] else ""
        yield f"  {rule:24}{count:7}{hours}{missing}"
    total = sum(known.values()) / 3600
    yield f"measured: {total:.3f} job hours, {gpu_hours:.3f} GPU hours; {unknown.total()} jobs never measured here"
    yield f"storage: {stored / 2**20:.1f} MiB for jobs whose like is there; {unsized} of unknown size"


def gpus_by_rule(profile: Path = PROFILE) -> dict[str, int]:
    """What the cluster's profile gives a job of each rule, on all of its nodes."""
    import yaml

    given = (yaml.safe_load(profile.read_text()) if profile.exists() else None) or {}
    return {rule: _gpus(asked) for rule, asked in (given.get("set-resources") or {}).items()}


def _gpus(asked: dict[str, Any]) -> int:
    per_node = re.search(r"--gpus-per-node[= ](\d+)", str(asked.get("slurm_extra", "")))
    return int(asked.get("nodes", 1)) * int(per_node[1]) if per_node else int(asked.get("gpu", 0))


def planned(targets: list[str]) -> list[Job]:
    """The jobs of a dry run."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--nocolor", "--cores", "1", "--", *targets]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("lt: ")]
        raise UserError(said[0].removeprefix("lt: ") if said else f"snakemake -n failed: {done.stderr.strip()[-300:]}")
    return list(_jobs(done.stdout + done.stderr))


def _jobs(text: str) -> Iterator[Job]:
    job: Job | None = None
    for line in text.splitlines():
        if match := re.fullmatch(r"(?:local)?rule (\w+):", line.strip()):
            if job:
                yield job
            job = Job(match[1])
        elif job and line.startswith("    "):
            key, _, value = line.strip().partition(": ")
            if key == "output":
                job.output = value.split(", ")[0]
            elif key == "benchmark":
                job.benchmark = value
        elif job and line.startswith("Job stats"):
            break
    if job:
        yield job


def _kinds(path: str) -> Iterator[str]:
    """The path itself, then its like: any seed and branch, then any data set that differs in its imbalance only."""
    yield path
    like = NUMBER.sub(r"\1*", path)
    yield like
    yield re.sub(r"_if\d+", "_if*", like)


def _estimate(known: dict[str, list[float]], path: str) -> float | None:
    return next((mean(known[kind]) for kind in _kinds(path) if kind in known), None) if path else None


def _gather(found: Iterator[tuple[str, float]]) -> dict[str, list[float]]:
    table: dict[str, list[float]] = defaultdict(list)
    for path, value in found:
        for kind in dict.fromkeys(_kinds(path)):
            table[kind].append(value)
    return table


def _seconds() -> dict[str, list[float]]:
    def read() -> Iterator[tuple[str, float]]:
        for path in Path("benchmarks").rglob("*.tsv"):
            with open(path, newline="") as file:
                for row in csv.DictReader(file, delimiter="\t"):
                    try:
                        yield str(path), float(row["s"])
                    except (KeyError, TypeError, ValueError):
                        continue

    return _gather(read())


def _sizes() -> dict[str, list[float]]:
    def read() -> Iterator[tuple[str, float]]:
        for path in Path("results").rglob("manifest.json"):
            yield str(path), float(sum(p.stat().st_size for p in path.parent.rglob("*") if p.is_file()))

    return _gather(read())
