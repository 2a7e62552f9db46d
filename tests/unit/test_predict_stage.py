"""The `predict` stage: every image of a part once, in order, with the logits of the network in evaluation."""

import numpy as np
import pytest
import torch
from faults import runs

from lt import artefact
from lt.errors import UserError
from lt.stages import predict as stage
from lt.stages.common import Recipe, open_split
from lt.stages.recipe import of_stage
from lt.stages.train import train


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        path = runs.folder(tmp_path_factory.mktemp("project"), patch)
        train(f"{runs.RUN}/recipe/train.json", split=runs.SPLIT, out=runs.OUT)
        yield path


def predicted(project, monkeypatch, part, out, **changes):
    monkeypatch.chdir(project)
    known = runs.config.load(runs.ROOT / "params.yaml")
    raw = of_stage(known, runs.config.Run.parse("digits/ce/resnet8/seed0"), "predict")
    raw["params"].update(changes)
    runs.recipes.write("predict.json", raw)
    stage.predict("predict.json", split=runs.SPLIT, model=runs.OUT, part=part, out=out)
    return dict(np.load(artefact.read(out) / "predictions.npz"))


@pytest.mark.parametrize("part", ["test", "val", "train"])
def test_every_image_once_in_order(project, monkeypatch, part):
    found = predicted(project, monkeypatch, part, f"out/{part}")
    _, lists = open_split(runs.SPLIT)
    np.testing.assert_array_equal(found["indices"], getattr(lists, part))
    assert found["logits"].dtype == np.float32 and found["logits"].shape == (len(found["indices"]), 10)
    assert artefact.read(f"out/{part}").manifest["part"] == part


def test_logits_are_those_of_the_network_in_evaluation(project, monkeypatch):
    found = predicted(project, monkeypatch, "test", "out/logits", outputs=["features"])
    recipe = Recipe.read("predict.json")
    network = stage.network_of(artefact.read(runs.OUT), recipe, torch.device("cpu"))
    assert not network.training
    with torch.no_grad():
        logits = network.classify(torch.from_numpy(found["features"]))
    np.testing.assert_allclose(logits.numpy(), found["logits"], atol=1e-5)


def test_a_ragged_last_batch_changes_nothing(project, monkeypatch):
    whole = predicted(project, monkeypatch, "val", "out/whole")
    ragged = predicted(project, monkeypatch, "val", "out/ragged", batch=7)
    np.testing.assert_array_equal(whole["labels"], ragged["labels"])
    np.testing.assert_allclose(whole["logits"], ragged["logits"], atol=1e-5)


def test_statistics_of_the_evaluation_may_be_its_own(project, monkeypatch):
    seen, load = [], stage.evaluation_loader

    def watched(*given, **named):
        seen.append(load(*given, **named))
        return seen[-1]

    monkeypatch.setattr(stage, "evaluation_loader", watched)
    alike = predicted(project, monkeypatch, "val", "out/alike")
    other = predicted(project, monkeypatch, "val", "out/other", image={"size": None, "mean": [0.5], "std": [0.25]})
    first, second = (next(iter(loader.epoch(0)))["image"] for loader in seen)
    mean, std = 0.3053, 0.3760
    torch.testing.assert_close((second * 0.25 + 0.5), first * std + mean, rtol=1e-5, atol=1e-5)
    assert not np.allclose(alike["logits"], other["logits"])


def test_a_part_that_there_is_not_is_refused(project, monkeypatch):
    with pytest.raises(UserError, match="no other images"):
        predicted(project, monkeypatch, "other", "out/other")
