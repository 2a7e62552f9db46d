"""A value of the wrong kind anywhere in the layers is one line, before anything walks them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from toy_params import NUMBERS, TOY, with_one

from lt import shapes
from lt.config import Config, Run
from lt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RAW = {
    "seeds": [0],
    "datasets": {
        "toy": dict(TOY),
        "other": {"extends": "toy"},
    },
    "recipes": {
        "ce": {"paper": "baselines", "stages": {"train": dict(NUMBERS)}, "sets": {"toy": {"arch": "resnet8"}}},
        "bs": {"extends": "ce", "stages": {"train": {"loss": "balanced_softmax"}}},
    },
    "crossings": {
        "x": {
            "recipe": {"paper": "crossed", "stages": {"stage1": {}}},
            "parts": {"first": {"a": {"stages": {"stage1": dict(NUMBERS)}}}},
            "where": [{"when": {"first": "a"}, "then": {"sets": {"toy": {"arch": "resnet8"}}}}],
        }
    },
    "tables": {"toy": {"datasets": ["toy"], "methods": ["ce", "x"]}},
    "overlays": {"smoke": {"train": {"epochs": 1}}},
    "grid": {"datasets": ["toy"], "archs": ["resnet8"], "seeds": [0], "baselines": ["ce"], "tables": {"toy": "x"}},
}


def changed(path: str, value: object) -> dict:
    return with_one(RAW, path, value)


def test_the_right_shapes_are_silent() -> None:
    assert Config(copy.deepcopy(RAW)).rows("toy")


RUN = "toy/ce/resnet8/seed0"
STAGES, MAP, TEXT = "expected a mapping of stages", "expected a mapping", "expected text"
CE = "recipes.ce"


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        (f"{CE}.stages", ["train"], f"{CE}.stages: {STAGES}, found the list ['train']"),
        (f"{CE}.stages", "train", f"{CE}.stages: {STAGES}, found the text 'train'"),
        (f"{CE}.stages.train", "x", f"{CE}.stages.train: {MAP}, found the text 'x'"),
        (f"{CE}.stages.train", [1], f"{CE}.stages.train: {MAP}, found the list [1]"),
        (f"{CE}.stages", {1: {}}, f"{CE}.stages: expected names as keys, found 1; put it in quotes"),
        (f"{CE}.sets", ["toy"], f"{CE}.sets: expected a mapping of data sets, found the list ['toy']"),
        (f"{CE}.sets", "toy", f"{CE}.sets: expected a mapping of data sets, found the text 'toy'"),
        (f"{CE}.sets.toy", [1], f"{CE}.sets.toy: {MAP}, found the list [1]"),
        (f"{CE}.sets.toy.stages", ["train"], f"{CE}.sets.toy.stages: {STAGES}, found the list"),
        (f"{CE}.sets.toy.archs", ["a"], f"{CE}.sets.toy.archs: expected a mapping of networks, found the list"),
        (f"{CE}.sets.toy.archs", {"resnet8": "foo"}, f"{CE}.sets.toy.archs.resnet8: {MAP}, found the text 'foo'"),
        (f"{CE}.sets.toy.arch", 8, f"{CE}.sets.toy.arch: expected a name or a list of names, found 8"),
        (f"{CE}.sets.toy.arch", [8], f"{CE}.sets.toy.arch: expected a name or a list of names, found the list [8]"),
        (f"{CE}.sets.toy.verified", "yes", f"{CE}.sets.toy.verified: expected true or false, found the text 'yes'"),
        (f"{CE}.runs", [1], f"{CE}.runs: expected a mapping of runs, found the list [1]"),
        (f"{CE}.runs", "x", f"{CE}.runs: expected a mapping of runs, found the text 'x'"),
        (f"{CE}.runs", {RUN: "x"}, f"{CE}.runs.{RUN}: {MAP}, found the text 'x'"),
        (f"{CE}.extends", ["ce", "bs"], f"{CE}.extends: {TEXT}, found the list ['ce', 'bs']"),
        (f"{CE}.extends", {"a": 1}, f"{CE}.extends: {TEXT}, found the mapping {{'a': 1}}"),
        (f"{CE}.stages.train.verb", ["train"], f"{CE}.stages.train.verb: {TEXT}, found the list ['train']"),
        ("recipes.bs.stages.train", {"use": ["x"]}, "recipes.bs.stages.train.use: expected text, found the list ['x']"),
        (f"{CE}.report", ["merge"], f"{CE}.report: {TEXT}, found the list ['merge']"),
        (f"{CE}.title", 5, f"{CE}.title: {TEXT}, found 5"),
        (f"{CE}.verified", 1, f"{CE}.verified: expected true or false, found 1"),
        (f"{CE}.published", 1, f"{CE}.published: {TEXT}, found 1"),
        (f"{CE}.published", {"train": []}, f"{CE}.published.train: {TEXT}, found the list []"),
        (f"{CE}.only", 1, f"{CE}.only: expected a list of data sets and families, found 1"),
        (f"{CE}.only", [["toy"]], f"{CE}.only: expected a list of data sets and families, found the list [['toy']]"),
        ("datasets.other.extends", ["toy"], f"datasets.other.extends: {TEXT}, found the list ['toy']"),
        ("datasets.toy.family", [1], f"datasets.toy.family: {TEXT}, found the list [1]"),
        ("overlays.smoke.train", {"use": "ce"}, "overlays.smoke.train.use: an overlay changes numbers only"),
        (f"{CE}.stages.train.loss", {"gamma": 1.0}, f"{CE}.stages.train.loss.name: field required"),
        ("overlays.smoke.train", [1], f"overlays.smoke.train: {MAP}, found the list [1]"),
        ("crossings.x.recipe.stages", ["stage1"], f"crossings.x.recipe.stages: {STAGES}, found the list"),
        ("crossings.x.parts.first.a.stages", [1], f"crossings.x.parts.first.a.stages: {STAGES}, found the list [1]"),
        ("crossings.x.parts.first.a.title", 5, f"crossings.x.parts.first.a.title: {TEXT}, found 5"),
        ("crossings.x.where.0.then", {"sets": [1]}, "crossings.x.where.0.then.sets: expected a mapping of data sets"),
        ("crossings.x.recipe.extends", "ce", "crossings.x.recipe.extends: a layer of a crossing extends nothing"),
        ("grid.baselines", 3, "grid.baselines: expected a list of names, found 3"),
        ("grid.baselines", None, "grid.baselines: expected a list of names, found nothing"),
        ("grid.branches", ["0"], "grid.branches: expected a list of whole numbers, found the list ['0']"),
        (
            "grid.baseline",
            ["ce"],
            "grid.baseline: no stage of dvc.yaml is multiplied by this list; did you mean 'basel",
        ),
        ("grid.archs", ["resnet9"], "grid.archs: resnet9: no such network; did you mean"),
        ("recipes.bare", {"paper": "baselines", "sets": {"toy": {"arch": "resnet8"}}}, "recipes.bare.stages: missing"),
        ("recipes.bare", None, "recipes.bare: "),
    ],
)
def test_a_value_of_the_wrong_kind(path: str, value: object, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        Config(changed(path, value))
    found = str(caught.value).splitlines()
    assert len(found) == 1 and found[0].startswith(f"params.yaml: {wanted}"), found


BS = "recipes.bs.stages.train"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"use": "bs/train"}, f"{BS}.use: points at itself"),
        ({"use": "bs"}, f"{BS}.use: points at itself"),
        ({"use": "ce/trian"}, f"{BS}.use: ce has no stage 'trian'; did you mean 'train'?"),
        ({"use": "tay:ce/train"}, f"{BS}.use: tay: no such data set; did you mean 'toy'?"),
        ({"use": "ce/train", "lr": 0.2}, f"{BS}.lr: stands beside `use`, which takes ce's numbers as they are"),
        ({"use": "ce/train", "verb": "train"}, None),
        ({"use": "other:bs/train"}, None),  # of another data set
    ],
)
def test_a_stage_shared_from_elsewhere(body: dict, wanted: str | None) -> None:
    if wanted is None:
        Config(changed(BS, body))
        return
    with pytest.raises(UserError) as caught:
        Config(changed(BS, body))
    found = str(caught.value).splitlines()
    assert len(found) == 1 and found[0].startswith(f"params.yaml: {wanted}"), found


def test_stages_that_share_each_other() -> None:
    raw = changed("recipes.ce.stages.train", {"use": "bs/train"})
    raw["recipes"]["bs"]["stages"]["train"] = {"use": "ce/train"}
    with pytest.raises(UserError, match=r"ce\.stages\.train\.use \(for toy/ce/resnet8/seed0\): leads back to ce/train"):
        Config(raw).home(Run("toy", "ce", "resnet8", 0), "train")


def test_without_a_grid_every_table_is_kept() -> None:
    raw = copy.deepcopy(RAW)
    assert Config(raw).kept_tables() == ["toy"]
    raw = copy.deepcopy(RAW)
    del raw["grid"]
    raw["tables"]["more"] = raw["tables"]["toy"]
    assert Config(raw).kept_tables() == ["toy", "more"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("x", "the text 'x'"),
        (None, "nothing"),
        (True, "true"),
        (2.0, "2.0"),
        ({}, "the mapping {}"),
        ([1], "the list [1]"),
    ],
)
def test_what_was_found(value: object, wanted: str) -> None:
    assert shapes.shown(value) == wanted
