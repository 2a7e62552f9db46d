"""An official checkpoint stands in for training: import, predict and evaluate by the same rules, then trace it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lt import models

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("lt", "scripts", "workflow", "profiles", "Snakefile", "params.yaml", "environment.yml")
RUN = "digits_smoke/ce/resnet8/seed0"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, env=environment, timeout=400
    )


def official(path: Path) -> dict[str, torch.Tensor]:
    """A file in the MiSLAS layout, as several devices wrote it."""
    state = models.build("resnet8", 10, seed=5, in_channels=1).state_dict()
    head = {f"module.{k}": v for k, v in state.items() if k.startswith("fc.")}
    body = {f"module.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    torch.save({"epoch": 200, "state_dict_model": body, "state_dict_classifier": head}, path)
    return state


@pytest.mark.slow
def test_round_trip(checkout: Path, tmp_path: Path) -> None:
    file = tmp_path / "official.pth.tar"
    state = official(file)
    stage = f"results/{RUN}/train"
    done = run(checkout, "lt.cli", "import", str(file), "--as", stage)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((checkout / stage / "manifest.json").read_text())
    assert manifest["imported"]["layout"] == "mislas" and manifest["imported"]["path"] == file.name
    assert manifest["inputs"]["file"] == manifest["imported"]["sha256"]
    ours = load_file(checkout / stage / "model.safetensors")
    assert ours.keys() == state.keys() and all(torch.equal(ours[k], state[k]) for k in state)

    target = f"results/metrics/{RUN}/train/manifest.json"
    done = run(checkout, "snakemake", "--cores", "1", "--", target)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "baseline_train" not in done.stdout + done.stderr
    again = run(checkout, "snakemake", "-n", "--", target)
    assert "Nothing to be done" in again.stdout + again.stderr
    with np.load(checkout / f"results/{RUN}/predictions/test/train/predictions.npz") as stored:
        assert stored["logits"].shape == (600, 10)

    assert run(checkout, "lt.cli", "verify").returncode == 0
    with open(checkout / stage / "model.safetensors", "r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\x7f")
    found = run(checkout, "lt.cli", "verify")
    assert found.returncode == 2 and f"{stage}/model.safetensors: changed since it was written" in found.stdout

    (checkout / "data" / "weights" / file.name).unlink()
    (checkout / stage / "manifest.json").unlink()
    lost = run(checkout, "snakemake", "--cores", "1", "--", f"{stage}/manifest.json")
    assert lost.returncode == 2 and f"no file data/weights/{file.name}" in lost.stderr


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        (f"results/{RUN}/trian", "ce has no stage 'trian'; did you mean 'train'?"),
        ("results/digits_smoke/mislas/resnet8/seed0", "expected results/<dataset>/<method>/<arch>/seed<k>/<stage>"),
        ("results/digits_smoke/btm/resnet8/seed0/subset", "'subset' is not trained"),
        (f"results/{RUN}/train", "the names do not match"),
    ],
)
def test_what_cannot_be_imported_changes_nothing(checkout: Path, tmp_path: Path, stage: str, wanted: str) -> None:
    file = tmp_path / "x.pth"
    torch.save({"fc.weight": torch.zeros(10, 3)}, file)
    before = (checkout / "params.yaml").read_bytes()
    done = run(checkout, "lt.cli", "import", str(file), "--as", stage)
    assert done.returncode == 2 and wanted in done.stderr and len(done.stderr.splitlines()) == 1
    assert (checkout / "params.yaml").read_bytes() == before
    assert not (checkout / "results").exists() and not (checkout / "data").exists()
