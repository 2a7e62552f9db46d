"""params.yaml in pieces: each recipe's piece holds what it is made of, and no more."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from lt.config import Config, load
from lt.stages.recipe import of_stage
from lt.stages.sections import behind, params, sections

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "params.yaml")


def test_what_stands_behind_a_recipe(config: Config) -> None:
    assert behind(config, "ce") == ["ce"]
    assert "mislas" in behind(config, "mixup")
    assert {"btm_soup", "btm", "mislas"} <= set(behind(config, "btm_soup"))
    assert {"livt_384", "livt", "mae"} <= set(behind(config, "livt_384"))


def test_a_recipes_piece_makes_the_same_stages(config: Config) -> None:
    """With nothing but its piece and that of the data sets, every stage of a run resolves as with the whole file."""
    pieces = sections(config)
    rows = {run for table in ("digits", "cifar100", "inat18") for run, _ in config.rows(table)}
    for run in sorted(rows, key=str):
        layers = copy.deepcopy(pieces[f"recipes/{run.method}"])
        small = Config({"seeds": [0], "recipes": layers, "tables": {}, **copy.deepcopy(pieces["datasets"])})
        for stage in config.own_stages(run):
            assert of_stage(small, run, stage) == of_stage(config, run, stage), (run, stage)
        assert small.own_stages(run) == config.own_stages(run)


def test_only_the_pieces_of_a_change_change(config: Config) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["recipes"]["mislas"]["stages"]["stage2"]["lr"] = 0.0123
    before, after = sections(config), sections(Config(raw))
    changed = {name for name in before if json.dumps(before[name]) != json.dumps(after[name])}
    assert {"recipes/mislas", "recipes/btm", "recipes/mixup"} <= changed
    assert not changed & {"datasets", "tables", "recipes/ce", "recipes/ride3", "recipes/livt"}


def test_a_recipe_that_is_gone_leaves_no_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw |= {"recipes": {"ce": raw["recipes"]["ce"], "bs": {"extends": "ce"}}, "tables": {}, "crossings": {}}
    raw.pop("grid")
    for _ in range(2):
        Path("params.yaml").write_text(yaml.safe_dump(raw))
        params(out="results/params")
        raw["recipes"].pop("bs", None)
    assert [p.name for p in Path("results/params/recipes").iterdir()] == ["ce.json"]
