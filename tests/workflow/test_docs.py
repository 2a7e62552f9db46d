"""The two how-to pages, done literally in a copy of the project."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from trees import ROOT, checkout, seed_rows, snakemake


def blocks(page: str) -> list[str]:
    """The indented blocks of a page, in order."""
    text = (ROOT / "docs" / page).read_text()
    assert len(text.splitlines()) < 40
    found = re.findall(r"(?:(?:^    .*|^)\n)+", text, flags=re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in found if block.strip()]


def merge_into(params: dict, addition: dict) -> None:
    for key, value in addition.items():
        if isinstance(value, dict) and isinstance(params.get(key), dict):
            merge_into(params[key], value)
        else:
            params[key] = value


def add_to_params(tree: Path, *texts: str) -> None:
    params = yaml.safe_load((tree / "params.yaml").read_text())
    for text in texts:
        merge_into(params, yaml.safe_load(text))
    (tree / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.mark.slow
def test_adding_a_method(tmp_path: Path) -> None:
    loss, recipe, command = blocks("add-a-method.md")
    line = re.search(r'`("square_root_softmax": \w+)`', (ROOT / "docs" / "add-a-method.md").read_text())[1]
    tree = checkout(tmp_path)
    module, registry = tree / "lt/losses/balanced.py", tree / "lt/losses/__init__.py"
    module.write_text(f"{module.read_text()}\n\n{loss}\n")
    name = line.split(": ")[1]
    text = registry.read_text().replace("    LOSSES: dict", "LOSSES: dict")
    text = re.sub(r"(LOSSES: [^\n]*= \{\n)", rf"from lt.losses.balanced import {name}\n\n\1    {line},\n", text)
    registry.write_text(text)
    add_to_params(tree, recipe)
    target = command.split()[-1]
    done = snakemake(tree, "--cores", "2", target)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tree / target).with_name("metrics.json").exists()


@pytest.mark.slow
def test_adding_a_data_set(tmp_path: Path) -> None:
    tree, rng = checkout(tmp_path / "tree"), np.random.default_rng(0)
    layout, _, dataset, recipe, table, commands = blocks("add-a-dataset.md")
    assert layout.startswith("flowers/")
    flowers = tmp_path / "flowers"
    for part, name, count in (("train", "rose", 12), ("train", "tulip", 5), ("test", "rose", 3), ("test", "tulip", 3)):
        (flowers / part / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(flowers / part / name / f"{i}.jpg")
    (tree / "paths.local.yaml").write_text(f"flowers: {flowers}\n")
    add_to_params(tree, dataset, recipe, table)
    doctor, table = (line.split() for line in commands.splitlines())
    assert doctor == ["lt", "doctor"] and table[:3] == ["snakemake", "--cores", "all"]
    done = command_line(tree, "doctor")
    assert f"ok       {flowers / 'train'}: 2 class folders" in done.stdout
    done = snakemake(tree, *table[1:])
    assert done.returncode == 0, done.stderr[-3000:]
    rows = seed_rows(tree, "flowers")
    assert [row["seed"] for row in rows] == ["0", "1", "2"] and {row["set"] for row in rows} == {"flowers"}


def command_line(tree: Path, *given: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lt.cli", *given], cwd=tree, capture_output=True, text=True)
