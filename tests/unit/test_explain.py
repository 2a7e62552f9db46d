"""From a cell back to the data; and what was changed by hand on the way is named."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from lt import artefact, cli
from lt.errors import UserError
from lt.stages.tabulate import tabulate

SEED = "toy/ce/resnet8/seed0"
FOLDERS = {
    "split": "results/toy/split0",
    "train": f"results/{SEED}/train",
    "predict": f"results/{SEED}/predictions/test/train",
    "evaluate": f"results/metrics/{SEED}/train",
}


def stage(name: str, files: dict[str, str], **inputs: object) -> artefact.Artefact:
    recipe = {"stage": name, "verb": name, "seed": 0, "code": f"c{name}"}
    recipe |= {"params": {"lr": 0.1}, "data": {"source": "d"}}
    with artefact.commit(FOLDERS[name], recipe=recipe, inputs=inputs) as draft:
        for file, text in files.items():
            (draft / file).write_text(text)
    return artefact.read(FOLDERS[name])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    split = stage("split", {"train.npy": "1"}, data="d" * 64)
    model = stage("train", {"model.safetensors": "w"}, split=split)
    found = stage("predict", {"predictions.npz": "p"}, split=split, model=model)
    metrics = {"metrics": {"top1": 61.5, "few": 12.0}, "cost": {"wall_s": 1.0, "peak_mb": 2.0}}
    stage("evaluate", {"metrics.json": json.dumps(metrics)}, predictions=found, split=split)
    manifest = f"{FOLDERS['evaluate']}/manifest.json"
    row = {"manifest": manifest, "dataset": "toy", "method": "ce", "arch": "resnet8", "seed": 0}
    recipe = {"stage": "tabulate", "verb": "tabulate", "table": "toy", "rows": [row], "code": "x"}
    artefact.write_text("results/recipes/toy.json", json.dumps(recipe))
    tabulate("results/recipes/toy.json", out="results/tables/toy.csv")
    return tmp_path


def said(capsys: pytest.CaptureFixture, *words: str) -> str:
    cli.run(words)
    return capsys.readouterr().out


def problems(capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(UserError, match="problems"):
        cli.run(["verify"])
    return capsys.readouterr().out


def test_the_chain_of_a_cell(project: Path, capsys: pytest.CaptureFixture) -> None:
    text = said(capsys, "explain", "results/tables/toy.csv", "--row", "ce", "--column", "few")
    assert "few = 12.00" in text and "few = 12.0 in" in text
    nodes = [line.split()[1] for line in text.splitlines() if line[:2] == "  " != line[1:3] and " code c" in line]
    assert nodes == [FOLDERS[name] for name in ("evaluate", "predict", "split", "train")]
    for name, folder in FOLDERS.items():
        assert f"code c{name}" in text and artefact.read(folder).digest[:12] in text
        assert f"snakemake --cores all --force {folder}/manifest.json" in text
    command = f"python scripts/train.py --recipe results/{SEED}/recipe/train.json"
    assert f"{command} --split results/toy/split0/manifest.json" in text
    assert "data digest" in text and "lr=0.1" in text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--row", "cee"], "no row 'cee'; did you mean 'ce'?"),
        (["--row", "ce", "--column", "tob1"], "no column 'tob1'; did you mean 'top1'?"),
        (["--row", "ce", "--seed", "7"], "no seed '7'"),
        (["--row", "ce", "--arch", "resnet9"], "--arch 'resnet9'; did you mean 'resnet8'?"),
    ],
)
def test_a_cell_that_is_not_there(project: Path, words: list[str], wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        cli.run(["explain", "results/tables/toy.csv", *words])
    assert wanted in str(caught.value)


def test_a_table_that_is_not_there(project: Path) -> None:
    with pytest.raises(UserError, match=r"make it: snakemake --cores all results/tables/x\.csv"):
        cli.run(["explain", "results/tables/x.csv", "--row", "ce"])


def test_untouched_results(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert said(capsys, "verify") == "4 artefacts, 1 tables, 0 problems\n"


def test_changed_weights_are_named_by_both(project: Path, capsys: pytest.CaptureFixture) -> None:
    Path(FOLDERS["train"], "model.safetensors").write_text("W")
    assert f"{FOLDERS['train']}/model.safetensors: changed since it was written" in problems(capsys)
    assert "CHANGED" in said(capsys, "explain", "results/tables/toy.csv", "--row", "ce")


def test_a_parent_made_again_differently(project: Path, capsys: pytest.CaptureFixture) -> None:
    stage("train", {"model.safetensors": "other"}, split=artefact.read(FOLDERS["split"]))
    assert f"{FOLDERS['predict']}: stale: model ({FOLDERS['train']})" in problems(capsys)
    assert "STALE" in said(capsys, "explain", "results/tables/toy.csv", "--row", "ce")


@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
def test_a_number_changed_in_a_table(project: Path, capsys: pytest.CaptureFixture, suffix: str) -> None:
    table = Path(f"results/tables/toy.{suffix}")
    table.write_text(table.read_text().replace("61.5", "71.5"))
    assert f"{table}: not what its metrics say" in problems(capsys)


def test_added_files_other_recipes_and_damaged_manifests(project: Path, capsys: pytest.CaptureFixture) -> None:
    Path(FOLDERS["train"], "extra.txt").write_text("x")
    recipe = {"params": {"lr": 0.2}, "code": "ctrain"}
    artefact.write_text(f"results/{SEED}/recipe/train.json", json.dumps(recipe))
    Path(FOLDERS["split"], "manifest.json").write_text("{")
    text = problems(capsys)
    assert "extra.txt: not part of the artefact" in text
    assert "recipe/train.json says something else" in text
    assert f"{FOLDERS['split']}/manifest.json: not a manifest" in text


def test_a_missing_run_says_how_to_make_it(project: Path, capsys: pytest.CaptureFixture) -> None:
    Path(FOLDERS["evaluate"], "manifest.json").unlink()
    text = said(capsys, "explain", "results/tables/toy.csv", "--row", "ce")
    assert f"not there; make it: snakemake --cores all {FOLDERS['evaluate']}/manifest.json" in text


def test_a_table_is_published_with_what_lies_behind_it(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert "4 artefacts behind 1 runs" in said(
        capsys, "publish", "results/tables/toy.csv", "--to", "ref", "--note", "N."
    )
    assert (project / "ref/toy/toy.csv").read_bytes() == (project / "results/tables/toy.csv").read_bytes()
    with open(project / "ref/toy/runs.csv", newline="") as file:
        rows = {row["verb"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["split", "train", "predict", "evaluate"]
    assert rows["train"]["weights"] == artefact.sha256(f"{FOLDERS['train']}/model.safetensors")[:16]
    made = (project / "ref/toy/made.md").read_text()
    assert "1 of 1 finished" in made and "numpy" in made and made.endswith("- N.\n")
    for folder in (FOLDERS["evaluate"], "results/recipes"):
        shutil.rmtree(folder)
        with pytest.raises(UserError, match="finished" if "metrics" in folder else "make it: snakemake"):
            cli.run(["publish", "results/tables/toy.csv", "--to", "ref"])
