"""From a cell back to the data; and what was changed by hand on the way is named."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import small_results
from small_results import FOLDERS, SEED, stage

from lt import artefact, cli
from lt.errors import UserError
from lt.stages.tabulate import tabulate


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_results.make()
    return tmp_path


def said(capsys: pytest.CaptureFixture, *words: str) -> str:
    cli.run(words)
    return capsys.readouterr().out


def problems(capsys: pytest.CaptureFixture, *words: str) -> str:
    with pytest.raises(UserError, match="problems"):
        cli.run(["verify", *words])
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
    for name in ("toy.csv", "toy.md", "toy.tex"):
        assert (project / "ref/toy" / name).read_bytes() == (project / "results/tables" / name).read_bytes()
    assert not (project / "ref/toy/toy.comparisons.csv").exists(), "no comparison is planned"
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


def test_a_number_changed_by_hand_is_not_published(project: Path, capsys: pytest.CaptureFixture) -> None:
    for name, file in (("evaluate", "metrics.json"), ("train", "model.safetensors")):
        path = Path(FOLDERS[name], file)
        kept = path.read_text()
        path.write_text(kept.replace("61.5", "91.5").replace("w", "W"))
        line = f"{path}: changed since it was written; delete {path.parent} and run again: snakemake --cores all"
        with pytest.raises(UserError, match=line):
            cli.run(["publish", "results/tables/toy.csv", "--to", "ref"])
        assert not Path("ref").exists()
        path.write_text(kept)
    stage("train", {"model.safetensors": "other"}, split=artefact.read(FOLDERS["split"]))
    with pytest.raises(UserError, match=f"{FOLDERS['predict']}: stale: model"):
        cli.run(["publish", "results/tables/toy.csv", "--to", "ref"])


def test_a_published_table_is_held_against_its_digests(project: Path, capsys: pytest.CaptureFixture) -> None:
    said(capsys, "publish", "results/tables/toy.csv", "--to", "docs/ref")
    assert said(capsys, "verify", "docs/ref") == "0 artefacts, 0 tables, 1 published, 0 problems\n"
    folder = Path("docs/ref/toy")
    (folder / "toy.csv").write_text((folder / "toy.csv").read_text().replace("61.5", "91.5"))
    (folder / "toy.tex").unlink()
    (folder / "more.csv").write_text("x")
    text = problems(capsys, "docs/ref")
    assert f"{folder}/toy.csv: changed since it was published" in text
    assert f"{folder}/toy.tex: missing" in text and f"{folder}/more.csv: not named in made.md" in text
    (folder / "made.md").write_text("# How `toy` was made\n")
    assert "names no digest; publish the table again: lt publish results/tables/toy.csv" in problems(capsys, "docs/ref")


def test_comparisons_are_published_where_there_are_any(project: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = json.loads(Path("results/recipes/toy.json").read_text())
    recipe |= {"rows": [*recipe["rows"], recipe["rows"][0] | {"method": "bs"}], "comparisons": [["ce", "bs"]]}
    Path("results/recipes/toy.json").write_text(json.dumps(recipe))
    said(capsys, "publish", "results/tables/toy.csv", "--to", "ref")
    assert len(Path("ref/toy/toy.comparisons.csv").read_text().splitlines()) == 2
    assert "toy.comparisons.csv" in Path("ref/toy/made.md").read_text()


def test_results_without_their_benchmarks(project: Path, capsys: pytest.CaptureFixture) -> None:
    for name in (f"{SEED}/train", f"{SEED}/predictions/test/train", f"{SEED}/metrics/train", "toy/split0"):
        artefact.write_text(f"benchmarks/{name}.tsv", "s\n1.5\n")
    tabulate("results/recipes/toy.json", out="results/tables/toy.csv")
    assert "6.0" in Path("results/tables/toy.csv").read_text()
    assert "0 problems" in said(capsys, "verify")
    shutil.move("benchmarks", "elsewhere")
    assert "0 problems" in said(capsys, "verify")
    shutil.move("elsewhere", "benchmarks")
    Path("results/tables/toy.csv").write_text(Path("results/tables/toy.csv").read_text().replace("6.0", "7.0"))
    assert "results/tables/toy.csv: not what its metrics say" in problems(capsys)


def test_results_of_another_project(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    assert "4 artefacts, 1 tables, 0 problems" in said(capsys, "verify", str(project / "results"))
    assert said(capsys, "verify", str(project / "results/toy")).startswith(f"in {project}:\n3 artefacts")
    small_results.make()
    table = project / "results/tables/toy.csv"
    table.write_text(table.read_text().replace("61.5", "91.5"))
    assert "tables/toy.csv: not what its metrics say" in problems(capsys, str(project / "results"))
    shutil.copytree(project / "results", "copy")
    with pytest.raises(UserError, match="copy: expected a folder named results"):
        cli.run(["verify", "copy"])
    Path("linked").mkdir()
    Path("linked/results").symlink_to(Path("copy").resolve())
    assert "not what its metrics say" in problems(capsys, "linked/results")


def test_a_parent_that_is_gone_is_a_note(project: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(FOLDERS["train"])
    text = said(capsys, "verify")
    assert text.startswith(f"note: {FOLDERS['train']}: not here; 1 made from it") and "0 problems" in text
