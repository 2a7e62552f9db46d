"""The `choose` stage: the best snapshot on a part of the data, by name, and what choosing on the test set added."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from faults import runs
from safetensors.numpy import load_file

from lt import artefact, posthoc, tables
from lt.errors import UserError
from lt.published import Entry
from lt.stages.choose import choose, snapshots
from lt.stages.evaluate import evaluate, load_predictions
from lt.stages.predict import predict
from lt.stages.recipe import of_stage
from lt.stages.train import train

BEST = "results/digits/ce_best/resnet8/seed0/best"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        path = runs.folder(tmp_path_factory.mktemp("project"), patch)
        train(f"{runs.RUN}/recipe/train.json", split=runs.SPLIT, out=runs.OUT)
        yield path


def recipe(stage, **changes):
    known = runs.config.load(runs.ROOT / "params.yaml")
    raw = of_stage(known, runs.config.Run.parse("digits/ce_best/resnet8/seed0"), stage)
    raw["params"].update(changes)
    runs.recipes.write(f"{stage}.json", raw)
    return f"{stage}.json"


def judged(folder):
    """Top-1 of each snapshot, measured by the ordinary stage `predict` on a model artefact that holds it."""
    found = {}
    for epoch, path in snapshots(artefact.read(runs.OUT)).items():
        made = artefact.read(runs.OUT)
        with artefact.commit(folder / f"m{epoch}", recipe=made.manifest["recipe"], inputs={}) as draft:
            (draft / "model.safetensors").write_bytes(path.read_bytes())
        predict(recipe("predict"), split=runs.SPLIT, model=folder / f"m{epoch}", part="test", out=folder / f"p{epoch}")
        found[epoch] = load_predictions(artefact.read(folder / f"p{epoch}"))
    return found


def test_the_best_snapshot_is_kept_and_the_bonus_told(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    for step in (None, {"name": "pn", "tau": 1.0}):
        choose(recipe("best", posthoc=step), split=runs.SPLIT, model=runs.OUT, out=BEST)
        stored = judged(tmp_path / str(step))
        assert list(stored) == [1, 2, 3]
        top1 = {}
        for epoch, found in stored.items():
            scores = posthoc.apply(step, found, class_counts=None, tuning=None)[0] if step else found["logits"]
            top1[epoch] = 100 * float((scores.argmax(1) == found["labels"]).mean())
        best = max(top1, key=lambda epoch: (top1[epoch], -epoch))
        made = artefact.read(BEST)
        assert made.manifest["chosen"] == {"part": "test", "epoch": best, "of": 3, "bonus": top1[best] - top1[3]}
        with open(made / "accuracy.csv") as file:
            assert [float(r["top1"]) for r in csv.DictReader(file)] == pytest.approx(list(top1.values()), rel=1e-6)
        kept, wanted = load_file(made / "model.safetensors"), load_file(snapshots(artefact.read(runs.OUT))[best])
        assert all(np.array_equal(kept[name], wanted[name]) for name in wanted)


def test_the_row_says_that_the_test_set_chose(project, monkeypatch):
    monkeypatch.chdir(project)
    choose(recipe("best"), split=runs.SPLIT, model=runs.OUT, out=BEST)
    out = "results/digits/ce_best/resnet8/seed0/predictions/test/best"
    predict(recipe("predict"), split=runs.SPLIT, model=BEST, out=out)
    evaluate(recipe("evaluate"), predictions=out, split=runs.SPLIT, out="results/metrics/best")
    found = json.loads((project / "results/metrics/best/metrics.json").read_text())
    assert found["selected_on"] == "test"
    made, stored = artefact.read("results/metrics/best"), load_predictions(artefact.read(out))
    cells = np.loadtxt(made / "confusion.csv", delimiter=",", skiprows=1, dtype=int)
    pairs = zip(stored["labels"].tolist(), stored["logits"].argmax(1).tolist(), strict=True)
    assert {(t, p): n for t, p, n in cells.tolist()} == Counter(pairs) and "confusion.csv" in made.manifest["outputs"]

    assert found["metrics"]["test_bonus"] == artefact.read(BEST).manifest["chosen"]["bonus"] >= 0

    row = {"dataset": "digits", "method": "ce_best", "arch": "resnet8", "seed": 0, "published_as": "ce"}
    row |= {"selected_on": found["selected_on"], "metrics": found["metrics"]}
    known = {"dataset": "digits", "method": "ce", "arch": "resnet8", "metric": "top1", "value": 99.9, "source": "s"}
    frame = tables.tabulate([row], [Entry(**known, split="test", selection="best_on_test")], "t")
    assert frame["verdict"][1].startswith("below") and frame["selected_on"][1] == "best_on_test"
    frame = tables.tabulate([row], [Entry(**known, split="test", selection="last")], "t")
    assert frame["verdict"][1] == "not comparable: epoch best on test, published last"


def test_without_snapshots_there_is_nothing_to_choose(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    made = artefact.read(runs.OUT)
    with artefact.commit(tmp_path / "bare", recipe=made.manifest["recipe"], inputs={}) as draft:
        (draft / "model.safetensors").write_bytes((made / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="no snapshots to choose from; set snapshots_every"):
        choose(recipe("best"), split=runs.SPLIT, model=tmp_path / "bare", out=tmp_path / "best")
