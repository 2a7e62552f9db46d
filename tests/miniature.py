"""A copy of the project to run in, and miniature trees of the large sets: for tests that run whole graphs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lt.data.lists import OFFICIAL
from lt.data.rehearse import images_for_list, rehearse

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("lt", "scripts", "workflow", "profiles", "Snakefile", "params.yaml", "environment.yml")
TEST_IMAGES = 8


def checkout(folder: Path) -> Path:
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def snakemake(folder: Path, *given: str, data: Path | None = None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "LT_DATA_ROOT"} | {"OMP_NUM_THREADS": "1"}
    if data:
        environment["LT_DATA_ROOT"] = str(data)
    command = [sys.executable, "-m", "snakemake", *given]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=3600)


def small_tree(family: str, root: Path, *, per_class: int = 1, size: int = 24) -> None:
    """Few training images a class, and a handful of others: every one of those passes through the whole network."""
    rehearse(family, root / family, cap=per_class, test_per_class=1, pixels="none")
    for part, name in OFFICIAL[family].items():
        file = root / family / name
        if part != "train":
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:TEST_IMAGES]))
        images_for_list(root / family, file, size=size)
