"""Results of one run of a toy table, written by hand: the chain from a split to a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lt import artefact
from lt.stages.tabulate import tabulate

SEED = "toy/ce/resnet8/seed0"
TABLE = "results/tables/toy.csv"
FOLDERS = {
    "split": "results/toy/split0",
    "train": f"results/{SEED}/train",
    "predict": f"results/{SEED}/predictions/test/train",
    "evaluate": f"results/metrics/{SEED}/train",
}
HISTORY = "epoch,loss,train_top1\n1,2.0,30\n2,1.0,50\n"
PER_CLASS = "class,accuracy,shot\n0,80,many\n1,43,few\n"
METRICS = {"metrics": {"top1": 61.5, "few": 12.0}, "cost": {"wall_s": 1.0, "peak_mb": 2.0}}


def stage(name: str, files: dict[str, str], **inputs: object) -> artefact.Artefact:
    recipe = {"stage": name, "verb": name, "seed": 0, "code": f"c{name}"}
    recipe |= {"params": {"lr": 0.1}, "data": {"source": "d"}}
    with artefact.commit(FOLDERS[name], recipe=recipe, inputs=inputs) as draft:
        for file, text in files.items():
            (draft / file).write_text(text)
        if name == "predict":
            np.savez(draft / "predictions.npz", logits=np.eye(2, dtype=np.float32), labels=np.arange(2))
    return artefact.read(FOLDERS[name])


def make() -> None:
    """In the current folder."""
    split = stage("split", {"train.npy": "1"}, data="d" * 64)
    model = stage("train", {"model.safetensors": "w", "history.csv": HISTORY}, split=split)
    found = stage("predict", {}, split=split, model=model)
    stage("evaluate", {"metrics.json": json.dumps(METRICS), "per_class.csv": PER_CLASS}, predictions=found, split=split)
    manifest = f"{FOLDERS['evaluate']}/manifest.json"
    row = {"manifest": manifest, "dataset": "toy", "method": "ce", "arch": "resnet8", "seed": 0}
    recipe = {"stage": "tabulate", "verb": "tabulate", "table": "toy", "rows": [row], "figures": {}, "code": "x"}
    artefact.write_text("results/recipes/toy.json", json.dumps(recipe))
    tabulate("results/recipes/toy.json", out=TABLE)


def forge(name: str, file: str, content: bytes) -> None:
    """Change a file and its entry in the manifest: nothing but its content can tell."""
    path = Path(FOLDERS[name], file)
    path.write_bytes(content)
    manifest = path.with_name("manifest.json")
    said = json.loads(manifest.read_text())
    said["outputs"][file] = {"sha256": artefact.sha256(path), "bytes": len(content)}
    manifest.write_text(artefact.dump(said))
