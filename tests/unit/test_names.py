"""Names that are none, that stand for two things, or that nothing else knows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from toy_params import IMAGE, NUMBERS, TOY, with_one

from lt import names
from lt.config import Config
from lt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RAW = {
    "seeds": [0],
    "datasets": {
        "toy": dict(TOY),
        "toy2": {"extends": "toy"},
    },
    "recipes": {
        "ce": {"paper": "baselines", "stages": {"train": dict(NUMBERS)}, "sets": {"toy": {"arch": "resnet8"}}},
    },
    "crossings": {
        "x": {
            "recipe": {"paper": "crossed", "stages": {"stage1": {}}, "sets": {"toy": {"arch": "resnet8"}}},
            "parts": {
                "first": {"a": {"stages": {"stage1": dict(NUMBERS)}}, "b": {"stages": {"stage1": dict(NUMBERS)}}}
            },
        }
    },
    "tables": {"toy": {"datasets": ["toy"], "methods": ["ce", "x"]}},
    "overlays": {"smoke": {"train": {"epochs": 1}}},
}
RULE = "not a usable name (lower case, digits, _"
TABLE = {"datasets": ["toy"], "methods": ["ce"]}


def changed(path: str, value: object) -> dict:
    return with_one(RAW, path, value)


def test_what_is_right_is_silent() -> None:
    Config(copy.deepcopy(RAW))


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("tables.To y", TABLE, f"tables.To y: {RULE})"),
        ("overlays.Smoke", {}, f"overlays.Smoke: {RULE})"),
        ("crossings.x.parts.first.C-1", {"stages": {"stage1": NUMBERS}}, f"crossings.x.parts.first.C-1: {RULE})"),
        ("recipes.ce.stages.a b", NUMBERS, f"recipes.ce.stages.a b: {RULE})"),
        ("datasets.toy_smoke", {"extends": "toy"}, "datasets.toy_smoke: stands for 'toy' under the overlay 'smoke'"),
        ("tables.toy_smoke", TABLE, "tables.toy_smoke: stands for 'toy' under the overlay 'smoke' already; rename it"),
        ("recipes.x_a", {"extends": "ce"}, "recipes.x_a: a cell of the crossing 'x' has this name already; rename one"),
        ("recipes.x", {"extends": "ce"}, "recipes.x: the crossing has this name already; rename one of them"),
        ("recipes.ce.paper", "baseline", "recipes.ce.paper: no rules file draws 'baseline'; did you mean 'baselines'?"),
        ("crossings.x.recipe.paper", "cross", "crossings.x.recipe.paper: no rules file draws 'cross'; did you mean"),
        ("recipes.ce.paper", None, "recipes.ce.paper: missing"),
        ("crossings.x.recipe.paper", None, "crossings.x.recipe.paper: missing"),
        ("recipes.ce.report", "trian", "recipes.ce.report: no such stage 'trian'; did you mean 'train'?"),
        ("crossings.x.recipe.report", "stage2", "crossings.x.recipe.report: no such stage 'stage2'; did you mean"),
        ("overlays.smoke.trian", {}, "overlays.smoke.trian: no such verb; did you mean 'train'?"),
        ("overlays.smoke.train", {"epoch": 1}, "overlays.smoke.train.epoch: unknown key; did you mean 'epochs'?"),
        ("overlays.smoke.train", {"loss": "ldma"}, "overlays.smoke.train.loss: no such loss 'ldma'; did you mean 'ld"),
        ("recipes.ce.sets.toy.arch", ["resnet9"], "recipes.ce.sets.toy.arch: no such network 'resnet9'; did you mean"),
        ("recipes.ce.sets.toy.archs", {"resnet9": {}}, "recipes.ce.sets.toy.archs: no such network 'resnet9'; did you"),
        (
            "recipes.ce.runs",
            {"tay/ce/resnet8/seed0": {}},
            "recipes.ce.runs.tay/ce/resnet8/seed0: no such data set; did",
        ),
        ("recipes.ce.runs", {"toy/ce/resnet9/seed0": {}}, "recipes.ce.runs.toy/ce/resnet9/seed0: no such network 'res"),
        ("datasets.toy2.source", "digit", "datasets.toy2.source: no such source 'digit'; did you mean 'digits'?"),
        (
            "datasets.toy2.imbalance",
            {"rule": "exponental", "imb_factor": 9},
            "datasets.toy2.imbalance.rule: no such rule 'exponental'; did you mean 'exponential'?",
        ),
        ("datasets.toy2.imbalance", {"rule": "step"}, "datasets.toy2.imbalance.imb_factor: missing; rule 'step' needs"),
        (
            "datasets.toy2.image",
            IMAGE | {"mean": [0.1, 0.2, 0.3]},
            "datasets.toy2.image.mean: expected 1 number, found 3",
        ),
        ("datasets.toy2.image", IMAGE | {"std": [0.0]}, "datasets.toy2.image.std.0: input should be greater than 0"),
        ("datasets.toy3", {"extends": "toy2"}, "datasets.toy3.extends: toy2 extends toy itself; extend that one"),
    ],
)
def test_one_line_a_mistake(path: str, value: object, wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        Config(changed(path, value))
    found = str(caught.value).splitlines()
    assert len(found) == 1 and found[0].startswith(f"params.yaml: {wanted}"), found


def test_cells_of_one_name() -> None:
    raw = copy.deepcopy(RAW)
    for name, part in (("x", "a_b"), ("x_a", "b")):
        raw["crossings"].setdefault(name, copy.deepcopy(RAW["crossings"]["x"]))
        raw["crossings"][name]["parts"]["first"] = {part: {"stages": {"stage1": dict(NUMBERS)}}}
    with pytest.raises(UserError, match=r"crossings: 2 cells are named 'x_a_b'; rename a part$"):
        Config(raw)


def test_graphs_are_those_of_the_rules(tmp_path: Path) -> None:
    known = names.papers(str(ROOT / "params.yaml"))
    assert known == {"baselines", "bagmar", "mislas", "btm", "ride", "livt", "ipdpp", "crossed"}
    rules = tmp_path / "workflow" / "rules"
    rules.mkdir(parents=True)
    (rules / "mine.smk").write_text('rule a:\n    wildcard_constraints:\n        method=of_paper("mine"),\n')
    assert names.papers(str(tmp_path / "params.yaml")) == known | {"mine"}
