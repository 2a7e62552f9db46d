"""A copy of the project to run, and how to run Snakemake in it."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from warm import python_for

from lt.artefact import sha256
from lt.data.lists import OFFICIAL
from lt.data.rehearse import default_counts, images_for_list, listed, rehearse, write_images

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("lt", "scripts", "workflow", "profiles", "Snakefile", "params.yaml", "environment.yml")
TEST_IMAGES = 8


def checkout(folder: Path) -> Path:
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


def snakemake(
    folder: Path, *given: str, data: Path | None = None, path: Path | None = None
) -> subprocess.CompletedProcess:
    """`path`: a folder to look for programs in before any other."""
    environment = {k: v for k, v in os.environ.items() if k != "LT_DATA_ROOT"} | {"OMP_NUM_THREADS": "1"}
    before = [str(path)] if path else []
    environment["PATH"] = os.pathsep.join([*before, str(Path(sys.executable).parent), environment.get("PATH", "")])
    if data:
        environment["LT_DATA_ROOT"] = str(data)
    command = [sys.executable, "-m", "snakemake", *given]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=3600)


def warm_snakemake(folder: Path, *given: str, data: Path | None = None) -> subprocess.CompletedProcess:
    """The same commands, their scripts in forks of one Python that has torch imported: for many small jobs."""
    with python_for(folder) as warm:
        return snakemake(folder, *given, data=data, path=warm)


def plan_of(folder: Path, commands: list[str]) -> str:
    """One dry run over the targets of all documented commands; each of them is in the plan that it returns."""
    targets = sorted({word for command in commands for word in command.split() if word.startswith("results/")})
    done = snakemake(folder, "-n", *targets)
    assert done.returncode == 0, done.stderr[-3000:]
    plan = done.stdout + done.stderr
    assert targets and all(target in plan for target in targets), [t for t in targets if t not in plan]
    return plan


def small_tree(family: str, root: Path, *, per_class: int = 1, size: int = 24) -> None:
    """Few training images a class and a handful of others: every one of those passes through the whole network.

    The first class has one image more: what smooths by class size needs two sizes.
    """
    if family.startswith("cifar"):
        rehearse(family, root / family.removesuffix("_lt"), test_per_class=1)
        return
    if family == "imagenet_bal":
        many_names(root / family, int(default_counts(family)[0]) + 1, size=size)
        return
    counts = np.minimum(default_counts(family), per_class)
    counts[0] += 1
    rehearse(family, root / family, counts=counts, test_per_class=1, pixels="none")
    for part, name in OFFICIAL[family].items():
        file = root / family / name
        if part != "train":
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:TEST_IMAGES]))
        images_for_list(root / family, file, size=size)


def break_line(tree: Path, file: str, line: str, wrong: str) -> None:
    """Write a wrong line into a loss of the copy."""
    path = tree / "lt" / "losses" / file
    assert path.read_text().count(line) == 1, line
    path.write_text(path.read_text().replace(line, wrong))


def golden_failures(tree: Path, *tests: str) -> set[str]:
    """Which of these tests of tests/golden fail on the copy's code."""
    shutil.copytree(ROOT / "tests" / "golden", tree / "tests" / "golden")
    shutil.copy(ROOT / "pyproject.toml", tree)
    given = ["-q", "-rf", "--tb=no", "-p", "no:cacheprovider", *(f"tests/golden/{test}" for test in tests)]
    done = subprocess.run([sys.executable, "-m", "pytest", *given], cwd=tree, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return set(re.findall(r"^FAILED tests/golden/(\S+)", done.stdout, flags=re.M))


def many_names(root: Path, names: int, *, size: int) -> None:
    """ImageNet's training folders, each picture under that many names; test images are those of the first classes."""
    rehearse("imagenet_bal", root, counts=[1] * 1000, test_per_class=1, pixels="none")
    file = root / OFFICIAL["imagenet_lt"]["test"]
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:TEST_IMAGES]))
    images_for_list(root, file, size=size)
    paths, labels = listed("imagenet_bal", "train", [1] * 1000)
    write_images(root, paths, labels, pixels="images", size=size)
    for path in paths:
        image = root / path
        for number in range(1, names):
            os.link(image, image.with_name(f"{image.stem.split('_')[0]}_{number}{image.suffix}"))


def adding(tree: Path, **sections: dict) -> None:
    """Add entries to sections of the copy's params.yaml."""
    params = yaml.safe_load((tree / "params.yaml").read_text())
    for section, entries in sections.items():
        params[section] |= entries
    (tree / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def only_table(tree: Path, datasets: list[str], methods: list[str], archs: dict[str, list[str]]) -> None:
    """Leave one table, `rows`, in the copy's params.yaml."""
    params = yaml.safe_load((tree / "params.yaml").read_text())
    params["tables"] = {"rows": {"datasets": datasets, "methods": methods, "archs": archs}}
    params["grid"] |= {"tables": {}, "figures": {}}
    (tree / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def seed_rows(tree: Path, table: str) -> list[dict[str, str]]:
    with open(tree / "results" / "tables" / f"{table}.csv") as file:
        return [row for row in csv.DictReader(file) if row["seed"] != "mean"]


def listing(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder: time and digest (of each inode once); Snakemake's and Python's own notes aside."""
    found, digests = {}, {}
    for path in sorted(folder.rglob("*")):
        facts, name = path.stat(), path.relative_to(folder)
        if path.is_file() and facts.st_ino not in digests:
            digests[facts.st_ino] = sha256(path)
        if not {".snakemake", "__pycache__"} & {*name.parts}:
            found[str(name)] = (facts.st_mtime_ns, digests.get(facts.st_ino, ""))
    return found


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Without the right to write; root needs none, so that everything must be as it was afterwards, too."""
    before, folders = listing(folder), [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o555)
    try:
        yield
    finally:
        for each in folders:
            each.chmod(0o755)
    assert listing(folder) == before
