"""How many ranks profiles/slurm/torchrun starts, by what SLURM says: its commands and Python are stand-ins here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "profiles" / "slurm" / "torchrun"


def launched(folder: Path, job: str, **env: str) -> subprocess.CompletedProcess:
    """A job of one node, and what `scontrol` says of it."""
    for name, said in (("squeue", "1"), ("scontrol", job), ("python", "$*")):
        (folder / name).write_text(f'#!/bin/sh\necho "{said}"\n')
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "12", "OMP_NUM_THREADS": "8"} | env
    return subprocess.run([SCRIPT, "scripts/train.py", "--out", "x"], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("asked", ["TresPerJob=gres:gpu:4", "TresPerNode=gres/gpu:h100:4", "TresPerTask=gres:gpu:4"])
def test_who_asked_for_gpus_and_got_none_is_told_so(tmp_path: Path, asked: str) -> None:
    done = launched(tmp_path, f"JobId=12 TRES=cpu=8,node=1 {asked} Requeue=1")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("lt: SLURM job 12 asked for GPUs") and done.stderr.count("\n") == 1


def test_a_rank_a_gpu(tmp_path: Path) -> None:
    done = launched(tmp_path, "JobId=12 TresPerJob=gres:gpu:4", SLURM_GPUS_ON_NODE="4")
    assert done.stdout == "scripts/launch.py --standalone --nproc-per-node 4 -- scripts/train.py --out x\n"


def test_one_rank_where_no_gpu_was_asked_for(tmp_path: Path) -> None:
    done = launched(tmp_path, "JobId=12 TRES=cpu=8,node=1 Comment=rule_gpu_train Requeue=1")
    assert done.stdout == "scripts/launch.py --standalone --nproc-per-node 1 -- scripts/train.py --out x\n"
