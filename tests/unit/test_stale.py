"""What lies there of another recipe is found without any driver's records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lt import artefact
from lt.stages.stale import outdated

RUN = Path("results/digits/btm/resnet8/seed0")
NOW = {"stage": "x", "code": "c0", "data": {"mean": [0.5]}, "seed": 0, "params": {"lr": 0.1, "options": {}}}
PLACES = {
    "stage1": f"{RUN}/stage1",
    "branch": f"{RUN}/branches/branch3",
    "subset": f"{RUN}/subsets/subset3",
    "predict": f"{RUN}/predictions/val/stage1",
    "evaluate": "results/metrics/digits/btm/resnet8/seed0/merge",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(folder: str, recipe: dict) -> str:
    artefact.write_text(f"{folder}/manifest.json", artefact.dump({"recipe": recipe}))
    return f"{folder}/manifest.json"


def written(stage: str, recipe: dict) -> str:
    path = f"{RUN}/recipe/{stage}.json"
    artefact.write_text(path, artefact.dump(recipe))
    return path


@pytest.mark.parametrize("stage", PLACES)
@pytest.mark.parametrize("other", [{"code": "c1"}, {"data": {"mean": [0.4]}}, {"seed": 1}, {"params": {"lr": 0.2}}])
def test_an_artefact_of_another_recipe(stage: str, other: dict) -> None:
    recipe, manifest = written(stage, NOW), made(PLACES[stage], NOW)
    assert outdated(recipe, lambda: NOW) == []
    made(PLACES[stage], NOW | other)
    assert outdated(recipe, lambda: NOW) == [manifest]
    Path(recipe).unlink()  # what it made is there all the same
    assert outdated(recipe, lambda: NOW) == [manifest]


def test_splits_and_packs() -> None:
    for name, folder in (("split0", "results/digits/split0"), ("pack_test", "results/digits/pack/test")):
        manifest = made(folder, NOW | {"code": "c1"})
        assert outdated(f"results/digits/recipe/{name}.json", lambda: NOW) == [manifest]


def test_a_recipe_file_that_says_something_else_is_enough() -> None:
    recipe = written("stage1", NOW | {"code": "c1"})
    made(PLACES["stage1"], NOW | {"code": "c1"})
    assert outdated(recipe, lambda: NOW) == [recipe]
    Path(recipe).write_text("{")
    assert outdated(recipe, lambda: NOW) == [recipe]


def test_what_is_the_same() -> None:
    """Layout, tuples, and what a merged network tells of its parts are no other recipe."""
    now = NOW | {"params": {"lr": 0.1, "options": {}, "outputs": ("features",)}}
    path = Path(written("stage1", now))
    path.write_text(json.dumps(json.loads(path.read_text())))
    made(PLACES["stage1"], now | {"arch": "resnet8", "params": {**now["params"], "net": None}})
    assert outdated(path, lambda: now) == []


def test_nothing_there_is_not_resolved() -> None:
    assert outdated(f"{RUN}/recipe/stage1.json", lambda: pytest.fail("resolved")) == []


def test_a_damaged_manifest_is_left_to_those_who_read_it() -> None:
    recipe = written("stage1", NOW)
    Path(made(PLACES["stage1"], NOW)).write_text("{")
    assert outdated(recipe, lambda: NOW) == []
