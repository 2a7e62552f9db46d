"""Files that were cut, emptied or edited: one line that names the file and what to type, whoever reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_results
from small_results import FOLDERS, TABLE, forge

from lt import artefact, cli, tables
from lt.commands import effects
from lt.errors import UserError
from lt.stages.evaluate import load_predictions
from lt.stages.plot import plot
from lt.stages.tabulate import tabulate

METRICS = f"{FOLDERS['evaluate']}/metrics.json"
READERS = {
    "tabulate": lambda: tabulate("results/recipes/toy.json", out="again/toy.csv"),
    "explain": lambda: cli.run(["explain", TABLE, "--row", "ce"]),
    "publish": lambda: cli.run(["publish", TABLE, "--to", "ref"]),
    "plot": lambda: plot("results/recipes/toy.json", figure="groups", out="groups.svg"),
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_results.make()


def line(reader: str) -> str:
    with pytest.raises(UserError) as caught:
        READERS[reader]()
    return str(caught.value)


def verified(capsys: pytest.CaptureFixture) -> str:
    with pytest.raises(UserError, match="problems; delete"):
        cli.run(["verify"])
    return capsys.readouterr().out


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ['{"metrics": {"to', "", "{}", "[]", '{"metrics": 3, "cost": {}}', "\xe9", None])
def test_metrics(reader: str, text: str | None, capsys: pytest.CaptureFixture) -> None:
    path = Path(METRICS)
    path.unlink() if text is None else path.write_bytes(text.encode("latin-1"))
    said = line(reader)
    assert said.startswith(METRICS) and f"snakemake --cores all {FOLDERS['evaluate']}/manifest.json" in said
    assert f"{METRICS}: " in verified(capsys)
    if text is not None:
        forge("evaluate", "metrics.json", text.encode("latin-1"))
        assert line(reader).startswith(METRICS)
        assert f"{TABLE}: cannot be made again: {METRICS}" in verified(capsys)


@pytest.mark.parametrize("key", ["stage", "recipe", "inputs", "parents", "outputs"])
@pytest.mark.parametrize("reader", READERS)
def test_manifests(reader: str, key: str, capsys: pytest.CaptureFixture) -> None:
    path = Path(FOLDERS["evaluate"], "manifest.json")
    said = json.loads(path.read_text())
    for harm in ({k: v for k, v in said.items() if k != key}, said | {key: 3}):
        path.write_text(json.dumps(harm))
        assert line(reader).startswith(f"{path}: not a manifest; delete {path.parent}")
        assert f"{path}: not a manifest" in verified(capsys)


@pytest.mark.parametrize("name", ["split", "train", "predict"])
def test_every_problem_is_named_where_a_manifest_is_cut(name: str, capsys: pytest.CaptureFixture) -> None:
    path = Path(FOLDERS[name], "manifest.json")
    path.write_text(path.read_text()[:40])
    Path(METRICS).write_text("{}")
    text = verified(capsys)
    for problem in (f"{path}: not a manifest", f"{METRICS}: changed since", f"{TABLE}: cannot be made again"):
        assert problem in text
    Path(METRICS).write_text(json.dumps(small_results.METRICS))
    assert line("publish").startswith(f"{path}: not a manifest")


@pytest.mark.parametrize("text", ['{"wall_s"', "", "[]"])
def test_run_facts(text: str, capsys: pytest.CaptureFixture) -> None:
    path = Path(FOLDERS["train"], "run.json")
    path.write_text(text)
    for reader in ("explain", "publish"):
        assert line(reader).startswith(f"{path}: ")
    assert f"{path}: " in verified(capsys)


@pytest.mark.parametrize("text", ["{}", '{"rows"', "[]", '{"table": "toy", "rows": [{}], "figures": {}}'])
def test_recipes_of_tables(text: str, capsys: pytest.CaptureFixture) -> None:
    path = Path("results/recipes/toy.json")
    path.write_text(text)
    for reader in READERS:
        assert line(reader).startswith(f"{path}: ") and "delete it and run again" in line(reader)
    assert f"{TABLE}: cannot be made again: {path}: " in verified(capsys)


@pytest.mark.parametrize("text", ["", "by hand\n", "epoch,top1\n1,2\n", "epoch,loss\n1,x\n", "epoch,loss\n1\n", "\xe9"])
def test_histories(text: str) -> None:
    path = Path(FOLDERS["train"], "history.csv")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"{path}: changed since it was written; delete {path.parent}"):
        plot("results/recipes/toy.json", figure="curves", out="curves.svg")
    forge("train", "history.csv", text.encode("latin-1"))
    with pytest.raises(UserError, match=f"{path}: "):
        plot("results/recipes/toy.json", figure="curves", out="curves.svg")
    assert not Path("curves.svg").exists()


@pytest.mark.parametrize(
    "text", ["", "class,shot\n0,many\n", "class,accuracy,shot\n0\n", "class,accuracy,shot\n0,x,y\n"]
)
def test_classes(text: str) -> None:
    forge("evaluate", "per_class.csv", text.encode())
    with pytest.raises(UserError, match=f"{FOLDERS['evaluate']}/per_class.csv: .*; delete"):
        plot("results/recipes/toy.json", figure="per_class", out="per_class.svg")


def test_what_a_figure_needs() -> None:
    with pytest.raises(UserError, match=f"{METRICS}: expected an object with 'reliability'; delete"):
        plot("results/recipes/toy.json", figure="reliability", out="reliability.svg")
    Path(FOLDERS["split"], "train.npy").write_text("2")
    with pytest.raises(UserError, match=f"{FOLDERS['split']}/train.npy: changed since it was written; delete"):
        plot("results/recipes/toy.json", figure="per_class", out="per_class.svg")


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04", b"text", "half", "labels"])
def test_predictions(text: bytes | str) -> None:
    path = Path(FOLDERS["predict"], "predictions.npz")
    whole = path.read_bytes()
    if text == "labels":
        import numpy as np

        np.savez(path, logits=np.eye(2))
        text = path.read_bytes()
    forge("predict", "predictions.npz", whole[: len(whole) // 2] if text == "half" else text)
    with pytest.raises(UserError, match=f"{path}: (not an archive of arrays|no array 'labels').*; delete"):
        load_predictions(artefact.read(FOLDERS["predict"]))


@pytest.mark.parametrize("name", ["set", "method", "arch", "seed", "top1"])
def test_tables_without_a_column(name: str) -> None:
    head, rest = Path(TABLE).read_text().split("\n", 1)
    columns = ["other" if column == name else column for column in head.split(",")]
    Path(TABLE).write_text(",".join(columns) + "\n" + rest)
    with pytest.raises(UserError, match=f"{TABLE}: no column '{name}'"):
        effects.read(Path(TABLE), "top1")
    with pytest.raises(UserError, match=f"{TABLE}: no column '{name}'"):
        cli.run(["explain", TABLE, "--row", "ce"])


def test_tables_in_another_encoding_or_cut() -> None:
    raw = Path(TABLE).read_bytes()
    for harm in (raw.replace(b"resnet8", b"r\xe9snet8"), raw[:-30], b""):
        Path(TABLE).write_bytes(harm)
        with pytest.raises(UserError, match=f"{TABLE}: .*; make it: snakemake --cores all {TABLE}"):
            tables.read(Path(TABLE), "top1")
    Path(TABLE).write_bytes(raw.replace(b",0,,last,", b",x,,last,"))
    with pytest.raises(UserError, match="column 'seed': expected numbers, got 'x'"):
        effects.read(Path(TABLE), "top1")


@pytest.mark.parametrize("path", ["docs/reference/toy/toy.csv", "foo.csv", "results/tables/toy.md"])
def test_targets_that_no_rule_makes_are_not_suggested(path: str) -> None:
    Path("docs/reference/toy").mkdir(parents=True)
    Path("docs/reference/toy/toy.csv").write_bytes(Path(TABLE).read_bytes())
    for words in (["explain", path, "--row", "ce"], ["publish", path]):
        if words[0] == "publish" and path.endswith("md"):
            continue
        with pytest.raises(UserError, match=r"; expected results/tables/<table>\.csv$"):
            cli.run(words)
