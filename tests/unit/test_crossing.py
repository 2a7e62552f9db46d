"""Crossings: every combination is a recipe, a stage is made once, and what makes no sense says why."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from pathlib import Path

import pytest
import yaml

from lt import tables
from lt.config import Config, Run, load
from lt.errors import UserError
from lt.stages import recipe as recipes
from lt.tables_text import to_md, to_tex

ROOT = Path(__file__).resolve().parents[2]
AXES = {
    "stage1": ["ce", "mixup", "bns", "mgp"],
    "subset": ["all", "bal", "dpp"],
    "merge": ["one", "merge"],
    "stage2": ["none", "mislas", "gala", "crt"],
}


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "params.yaml")


def run_of(config: Config, method: str, dataset: str = "digits") -> Run:
    return Run(dataset, method, config.archs(method, dataset)[0], 0)


def test_every_combination_is_a_recipe_or_says_why_not(config: Config) -> None:
    cells = ["_".join(("x", *each)) for each in itertools.product(*AXES.values())]
    assert config.methods("crossed") == cells
    named = {run.method for run, _ in config.rows("crossed")}
    assert named | set(config.cells.senseless) == set(cells) and not named & set(config.cells.senseless)
    untrained = {f"x_{s}_all_one_{t}" for s in ("bns", "mgp") for t in ("none", "mislas")}
    assert set(config.cells.senseless) == untrained
    assert len(config.rows("crossed")) == 3 * (96 - 4) and len(config.rows("crossed_fashion")) == 3 * 24


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist_lt_if100"])
def test_every_cell_resolves_and_its_parts_make_its_stages(config: Config, dataset: str) -> None:
    for method in config.cells.recipes:
        run = run_of(config, method, dataset)
        _, _, subset, merge, stage2 = method.split("_")
        there = config.stages_of(run)
        assert ("subset" in there) == (subset == "bal"), method
        assert ("branch" in there) == (subset != "all" or merge == "merge"), method
        assert ("merge" in there) == (merge == "merge") and ("stage2" in there) == (stage2 != "none"), method
        for stage in there:
            config.stage(*config.home(run, stage))
        last = [s for s in ("stage1", "branch", "merge", "stage2") if s in there][-1]
        assert config.final_stage(method) == ("branch0" if last == "branch" else last), method


def test_a_stage_is_made_once(config: Config) -> None:
    """Two cells share a stage exactly where their recipes agree up to it."""
    homes: dict[str, set] = {}
    for method in config.cells.recipes:
        run, key = run_of(config, method), ""
        parts = dict(zip(AXES, method.split("_")[1:], strict=True))
        for stage, axes in (("branch", 2), ("merge", 3), ("stage2", 4)):
            if stage in config.stages_of(run):
                key = "_".join((stage, *list(parts.values())[:axes]))
                homes.setdefault(key, set()).add(config.home(run, stage))
    assert all(len(places) == 1 for places in homes.values()), homes
    assert len({*itertools.chain(*homes.values())}) == len(homes)
    count = Counter(key.split("_")[0] for key in homes)
    assert count == {"branch": 4 * 3, "merge": 4 * 3, "stage2": 4 * 6 * 3 - 2}


def test_papers_are_cells_of_the_crossing(config: Config) -> None:
    for method, stage, home in (
        ("x_ce_all_one_none", "stage1", "ce/train"),
        ("x_ce_all_one_crt", "stage2", "crt/stage2"),
        ("x_mixup_all_one_mislas", "stage2", "mislas/stage2"),
        ("x_mixup_bal_merge_none", "merge", "btm/merge"),
        ("x_mixup_bal_merge_mislas", "stage2", "btm/stage2"),
    ):
        run, name = config.home(run_of(config, method), stage)
        assert f"{run.method}/{name}" == home


def test_what_papers_share_with_a_cell_has_the_numbers_of_that_part(config: Config) -> None:
    """btm's branch stands for the part's own words; both must say the same."""
    for dataset in ("digits", "fashion_mnist_lt_if100"):
        ours = config.stage(run_of(config, "x_mixup_all_merge_none", dataset), "branch").params
        assert ours == config.stage(run_of(config, "btm", dataset), "branch").params
        ours = config.stage(run_of(config, "x_mixup_dpp_merge_mislas", dataset), "stage2").params
        assert ours == config.stage(run_of(config, "mislas", dataset), "stage2").params
        ours = config.stage(run_of(config, "x_mixup_all_one_crt", dataset), "stage2").params
        theirs = config.stage(run_of(config, "crt", dataset), "stage2").params
        assert ours == theirs


def test_numbers_come_from_the_part_that_says_them(config: Config) -> None:
    run = run_of(config, "x_mgp_dpp_merge_mislas", "fashion_mnist_lt_if100")
    home, stage = config.home(run, "branch")
    found = config.stage(home, stage)
    assert found.params.redraw.k == 50 and found.params.epochs == 20 and found.params.load == "mgp"
    assert found.origin["redraw"] == "crossings.x.parts.subset.dpp.sets.fashion_mnist_lt"
    assert found.origin["lr"] == "crossings.x.parts.stage1.mgp"
    assert config.stage(run, "stage2").origin["groups"].startswith("crossings.x.where.")


def wrong(change) -> list[str]:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(raw["crossings"]["x"])
    with pytest.raises(UserError) as caught:
        Config(raw)
    return str(caught.value).splitlines()


MISTAKES = {
    "unknown part": (lambda x: x["where"][0]["when"].update(subset="balanced"), "balanced: no such part"),
    "unknown axis": (lambda x: x["where"][0]["when"].update(subsets="bal"), "no such axis; did you mean 'subset'?"),
    "unknown stage": (
        lambda x: x["parts"]["merge"]["merge"]["stages"].update(marge={"verb": "merge"}),
        "crossings.x.parts.merge.merge.stages.marge: no such stage; did you mean 'merge'?",
    ),
    "unknown number": (
        lambda x: x["parts"]["stage2"]["crt"]["stages"]["stage2"].update(epoch=3),
        "crossings.x.parts.stage2.crt.stages.stage2.epoch: unknown key; did you mean 'epochs'?",
    ),
    "unknown loss": (
        lambda x: x["parts"]["stage2"]["crt"]["stages"]["stage2"].update(loss="cross_entropi"),
        "no such loss 'cross_entropi'; did you mean 'cross_entropy'?",
    ),
    "no paper": (lambda x: x["recipe"].pop("paper"), "crossings.x.recipe.paper: missing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    change, expected = MISTAKES[mistake]
    found = wrong(change)
    assert len(found) == 1 and expected in found[0], found


def test_a_cell_without_sense_is_a_row_with_its_reason(config: Config) -> None:
    made = recipes.of_table(config, "crossed")
    assert len(made["senseless"]) == 4 and len(made["rows"]) == 276
    row = copy.deepcopy(made["senseless"][0])
    rows = [row, {"dataset": "digits", "method": "ce", "arch": "resnet8", "seed": 0, "metrics": {"top1": 90.0}}]
    frame = tables.tabulate(rows, [], "crossed")
    found = frame.to_dict("records")[0]
    assert found["method"] == "x_bns_all_one_none" and found["seeds"] == 0 and found["top1"] is None
    assert found["verdict"] == "no such run: stage 1 has no classifier, and nothing after it trains one"
    for text in (tables.to_csv(frame), to_md(frame)):
        assert "x_bns_all_one_none" in text.replace("\\_", "_")
    assert f"{row['title']} & resnet8 & \\multicolumn" in to_tex(frame) and found["verdict"] in to_tex(frame)
    assert found["verdict"] in tables.to_csv(frame).replace('"', "")
