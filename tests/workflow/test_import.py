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
from trees import warm_snakemake

from lt import models

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("lt", "scripts", "workflow", "profiles", "Snakefile", "params.yaml", "environment.yml")
RUN = "digits_smoke/ce/resnet8/seed0"
BTM = "results/digits_smoke/btm/resnet8/seed0"


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


def official(path: Path, *, merged: bool = False) -> dict[str, torch.Tensor]:
    """A file in the MiSLAS layout, as several devices wrote it; BTM's merged ones count in floating point."""
    state = models.build("resnet8", 10, seed=5, in_channels=1).state_dict()
    if merged:
        state = {k: torch.tensor(2.9999998) if k.endswith("num_batches_tracked") else v for k, v in state.items()}
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


@pytest.mark.slow
def test_a_merge_and_a_branch_from_files(checkout: Path, tmp_path: Path) -> None:
    """Stage 2 starts from the file, nothing before it runs; a branch from a file is averaged with a trained one."""
    file = tmp_path / "merge.pth.tar"
    state = official(file, merged=True)
    done = run(checkout, "lt.cli", "import", str(file), "--as", f"{BTM}/merge")
    assert done.returncode == 0, done.stderr
    done = warm_snakemake(checkout, "--cores", "1", f"{BTM}/stage2/manifest.json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p.name for p in (checkout / BTM).iterdir()} == {"recipe", "merge", "stage2"}
    made = {name: load_file(checkout / BTM / name / "model.safetensors") for name in ("merge", "stage2")}
    for name, weights in made.items():  # stage 2 trains the classifier and moves BN's statistics
        assert torch.equal(weights["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"]), name
    assert made["stage2"]["bn1.num_batches_tracked"] > made["merge"]["bn1.num_batches_tracked"] == 3
    assert not torch.equal(made["stage2"]["fc.weight"], state["fc.weight"])

    other = BTM.replace("btm", "btm_k5")
    done = run(checkout, "lt.cli", "import", str(file), "--plan", "--as", f"{other}/branches/branch1")
    assert done.returncode == 0 and "dvc" not in done.stdout, done.stderr
    done = warm_snakemake(checkout, "--cores", "1", f"{other}/merge/manifest.json")
    assert done.returncode == 0, done.stderr[-2000:]
    weights = [load_file(checkout / other / f"branches/branch{i}/model.safetensors") for i in range(2)]
    assert torch.equal(weights[1]["fc.weight"], state["fc.weight"])
    assert not torch.equal(weights[0]["fc.weight"], state["fc.weight"])
    merged = load_file(checkout / other / "merge/model.safetensors")
    torch.testing.assert_close(merged["fc.weight"], (weights[0]["fc.weight"] + weights[1]["fc.weight"]) / 2)
    assert not (checkout / other / "branch").exists() and not (checkout / other / "subsets/subset1").exists()
    again = run(checkout, "snakemake", "-n", "--", f"{other}/merge/manifest.json")
    assert "Nothing to be done" in again.stdout + again.stderr
    seen = run(checkout, "lt.cli", "doctor", "digits")
    assert f"{other.removeprefix('results/')}/branches/branch1: data/weights/{file.name}" in seen.stdout
    refused = run(checkout, "scripts.recipe", "--run", other.removeprefix("results/"))
    assert refused.returncode == 2 and "branch1: under dvc all branches have one recipe" in refused.stderr


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        (f"results/{RUN}/trian", "ce has no stage 'trian'; did you mean 'train'?"),
        ("results/digits_smoke/mislas/resnet8/seed0", "expected results/<dataset>/<method>/<arch>/seed<k>/<stage>"),
        (f"{BTM}/subset", "'subset' is not trained"),
        (f"{BTM}/branch", f"a file stands in for one branch; name it: {BTM}/branches/branch0"),
        (f"{BTM}/branches/branch2", "btm has the branches branch0 to branch1"),
        ("results/digits_smoke/btm_half/resnet8/seed0/branches/branch0", f"shared; it lives in {BTM}/branches/branch0"),
        ("results/digits_smoke/ride3_tau_norm/resnet8/seed0/tau_norm", "'tau_norm' is not trained"),
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
