"""params.yaml: one line for each problem, all in one go, and every number's origin."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from toy_params import IMAGE, with_one

from lt.config import Config, Run, canonical, load
from lt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RAW = {
    "seeds": [0, 1],
    "datasets": {
        "toy_if10": {"source": "digits", "family": "toy", "num_classes": 10, "image": IMAGE},
        "toy_if50": {"extends": "toy_if10", "imbalance": {"rule": "exponential", "n_max": 9, "imb_factor": 3}},
    },
    "recipes": {
        "ce": {
            "paper": "baselines",
            "stages": {"train": {"epochs": 9, "batch": 8, "lr": 0.1, "schedule": "cosine"}},
            "sets": {
                "toy": {
                    "arch": ["resnet8", "resnet32"],
                    "source": "ours",
                    "verified": True,
                    "stages": {"train": {"epochs": 8, "lr": 0.2, "batch": 4}},
                    "archs": {"resnet32": {"stages": {"train": {"lr": 0.3}}}},
                },
                "toy_if50": {"stages": {"train": {"batch": 2}}},
            },
            "runs": {"toy_if50/ce/resnet32/seed1": {"stages": {"train": {"weight_decay": 0.5}}}},
        },
        "bs": {"extends": "ce", "stages": {"train": {"loss": "balanced_softmax"}}},
        "two": {
            "paper": "mislas",
            "stages": {"stage1": {"use": "ce/train"}, "stage2": {"epochs": 1, "batch": 8, "lr": 0.1}},
            "sets": {"toy": {"arch": "resnet8"}},
        },
    },
    "tables": {"toy": {"datasets": ["toy_if50"], "methods": ["ce", "two", "two/stage1"]}},
    "overlays": {"smoke": {"train": {"epochs": 1, "steps": 2}}},
}


def changed(path: str, value: object) -> dict:
    return with_one(RAW, path, value)


def lines(raw: dict) -> list[str]:
    with pytest.raises(UserError) as caught:
        Config(raw)
    assert caught.value.code == 2
    return str(caught.value).splitlines()


MISTAKES = {
    "recipes.ce.stages.train.epoch": (3, "recipes.ce.stages.train.epoch: unknown key; did you mean 'epochs'?"),
    "recipes.ce.stages.train.lr": ("1e-4", "recipes.ce.stages.train.lr: expected a number, found the text '1e-4'"),
    "recipes.ce.stages.train.batch": (0, "recipes.ce.stages.train.batch: input should be greater"),
    "recipes.ce.stages.train.epochs": (1.5, "recipes.ce.stages.train.epochs: "),
    "recipes.ce.stages.train.compile": ("yes", "recipes.ce.stages.train.compile: "),
    "recipes.ce.stages.train.loss": ("balanced_sofmax", "loss 'balanced_sofmax'; did you mean 'balanced_softmax'?"),
    "recipes.ce.stages.train.mix": ({"name": "mixup", "alfa": 1.0}, "mixup takes no such option; did you mean 'alpha'"),
    "recipes.ce.sets.toy.stages.tain": ({"epochs": 1}, "stages.tain: no such stage; did you mean 'train'?"),
    "recipes.ce.sets.toyy": ({}, "recipes.ce.sets.toyy: no such data set or family; did you mean 'toy'?"),
    "recipes.ce.sets.toy.verifed": (True, "recipes.ce.sets.toy.verifed: unknown key; did you mean 'verified'?"),
    "recipes.ce.papers": ("x", "recipes.ce.papers: unknown key; did you mean 'paper'?"),
    "recipes.two.only": (["toyy"], "recipes.two.only: toyy: no such data set or family; did you mean 'toy'?"),
    "recipes.bs.only": ("toy", "recipes.bs.only: expected a list of data sets and families, found the text 'toy'"),
    "recipes.bs.published": ({"tain": "ce"}, "recipes.bs.published.tain: unknown key; did you mean 'train'?"),
    "recipes.bs.extends": ("cee", "recipes.bs.extends: no such recipe; did you mean 'ce'?"),
    "recipes.two.stages.stage1": ({"use": "cee/train"}, "stage1.use: no such recipe; did you mean 'ce'?"),
    "recipes.two.stages.stage2": ({"verb": "trian", "epochs": 1}, "no such verb 'trian'; did you mean 'train'?"),
    "recipes.ce.stages.train.schedule": (
        {"name": "cosine", "min_lr": "1e-6"},
        "train.schedule.min_lr: expected a number, found the text '1e-6'; write 1.0e-4, not 1e-4",
    ),
    "recipes.ce.stages.train.sampler": (
        {"name": "class_aware", "k": True},
        "train.sampler.k: expected a whole number, found true",
    ),
    "recipes.ce.stages.train.optimizer": (
        {"name": "adamw", "betas": [0.9]},
        "optimizer.betas: expected a list of 2 numbers, found the list [0.9]",
    ),
    "recipes.ce.stages.train.groups": (
        {"name": "all", "lr_scale": {"fc": 0.1}},
        "groups.lr_scale: all takes no such option; did you mean 'lr_scales'?",
    ),
    "recipes.bs.stages.train.groups": (
        {"name": "all", "lr_scales": {"fc": "x"}},
        "groups.lr_scales: expected a mapping of names to numbers, found the mapping {'fc': 'x'}",
    ),
    "recipes.bs.stages.train.lr": (float("inf"), "recipes.bs.stages.train.lr: input should be a finite number"),
    "recipes.bs.stages.train.ema": (1.5, "recipes.bs.stages.train.ema: input should be less than or equal to 1"),
    "recipes.bs.stages.train.clip": (0.0, "recipes.bs.stages.train.clip: input should be greater than 0"),
    "recipes.bs.stages.train.image": ({"std": [0.0]}, "image.std.0: input should be greater than 0, found 0.0"),
    "datasets.toy_if50.extends": ("toy_if100", "datasets.toy_if50.extends: no such data set; did you mean"),
    "datasets.toy_if50.num_class": (3, "datasets.toy_if50.num_class: unknown key; did you mean 'num_classes'?"),
    "datasets.toy_if50.imbalance": ({"rule": "step", "imb_factor": "50"}, "imb_factor: expected a number, found"),
    "tables.toy.datasets": (["toy_if5"], "tables.toy.datasets: toy_if5: no such data set; did you mean"),
    "tables.toy.methods": (["cee"], "tables.toy.methods: cee: no such recipe; did you mean 'ce'?"),
    "tables.toy.method": (["ce"], "tables.toy.method: unknown key; did you mean 'methods'?"),
    "seed": ([0], "seed: unknown key; did you mean 'seeds'?"),
}


@pytest.mark.parametrize("path", MISTAKES)
def test_a_mistake_is_one_line(path: str) -> None:
    value, wanted = MISTAKES[path]
    found = lines(changed(path, value))
    assert len(found) == 1 and found[0].startswith("params.yaml: ") and wanted in found[0], found


def test_text_that_looks_like_a_number_says_how_to_write_it() -> None:
    assert lines(changed("recipes.ce.stages.train.lr", "1e-4"))[0].endswith("write 1.0e-4, not 1e-4")


def many(runs: dict) -> dict:
    """A recipe with three branches, and what the run toy_if10/many says."""
    numbers = {"epochs": 1, "batch": 8, "lr": 0.1}
    stages = {"branch": numbers, "merge": {"verb": "merge", "count": 3}}
    body = {"paper": "btm", "stages": stages, "sets": {"toy": {"arch": "resnet8"}}}
    return changed("recipes.many", {**body, "runs": {"toy_if10/many/resnet8/seed0": {"stages": runs}}})


FILE = {"imported": {"file": "x.pth", "sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        ({"branch": FILE}, "stages.branch.imported: a file stands in for one of the branches; name it: branch0"),
        ({"branch1": {**FILE, "lr": 0.2}}, "stages.branch1.lr: numbers stand under 'branch'"),
        ({"brunch1": FILE}, "stages.brunch1: no such stage; did you mean 'branch'?"),
    ],
)
def test_a_file_stands_in_for_one_of_many(runs: dict, wanted: str) -> None:
    found = lines(many(runs))
    assert len(found) == 1 and found[0].endswith(wanted), found


def test_one_branch_from_a_file_leaves_the_others_as_they_are() -> None:
    config, run = Config(many({"branch1": FILE, "merge": FILE})), Run("toy_if10", "many", "resnet8", 0)
    assert [(name, config.folder(run, name)) for _, name, _ in config.imports()] == [
        ("branch1", f"{run}/branches/branch1"),
        ("merge", f"{run}/merge"),
    ]
    plain, one = (config.stage(run, name).params for name in ("branch", "branch1"))
    assert plain.imported is None and one.imported and one.lr == plain.lr
    assert Config(many({})).stage(run, "branch").params == plain


def test_a_recipe_for_some_sets_only() -> None:
    config, run = Config(changed("recipes.two.only", ["toy_if10"])), Run("toy_if50", "two", "resnet8", 0)
    assert config.archs("two", "toy_if10") == ["resnet8"] and config.archs("two", "toy_if50") == []
    assert config.archs("two", "toy_if10_smoke") == ["resnet8"]
    with pytest.raises(UserError, match=r"recipes\.two: for toy_if10 only; not for toy_if50"):
        config.stage(run, "stage2")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("methods", [], "tables.toy.methods: expected one or more, found none"),
        ("datasets", [], "tables.toy.datasets: expected one or more, found none"),
        ("methods", ["ce", "two", "ce"], "tables.toy.methods: ce is listed twice"),
        ("seeds", [0, 0], "tables.toy.seeds: 0 is listed twice"),
        (
            "methods",
            ["two/stage3"],
            "tables.toy.methods: two/stage3: no such stage with a row of its own; did you mean",
        ),
        ("methods", ["two/predict"], "tables.toy.methods: two/predict: no such stage with a row of its own"),
        ("methods", ["lone"], "tables.toy.methods: lone: recipes.lone.sets names no network for toy_if50"),
        ("archs", {"toy_if5": ["resnet8"]}, "tables.toy.archs: toy_if5: not a data set of this table; did you mean"),
        ("archs", {"toy_if50": ["resnet88"]}, "tables.toy.archs.toy_if50: no such network 'resnet88'; did you mean"),
        ("comparisons", [["ce", "ce"]], "tables.toy.comparisons: ce, ce: expected two methods, each pair once"),
        ("figures", {"group": []}, "tables.toy.figures: no such figure 'group'; did you mean 'groups'?"),
        ("figures", {"groups": ["bs"]}, "tables.toy.figures.groups: bs: not a method of this table"),
    ],
)
def test_a_table_without_a_meaning_is_one_line(key: str, value: object, wanted: str) -> None:
    raw = changed(f"tables.toy.{key}", value)
    raw["recipes"]["lone"] = {"paper": "baselines", "stages": {"train": {"epochs": 1, "batch": 8, "lr": 0.1}}}
    (found,) = lines(raw)
    assert found.startswith("params.yaml: ") and wanted in found


@pytest.mark.parametrize(
    ("warmup", "wanted"),
    [
        (1, "expected 2 or more and less than the 8 epochs, found 1"),
        (8, "less than the 8 epochs, found 8"),
        (2, None),
    ],
)
def test_values_of_several_layers_that_go_together_badly(warmup: int, wanted: str | None) -> None:
    schedule = {"name": "coslrwarmup", "base_lr": 0.05, "warmup_epochs": warmup}
    config, run = Config(changed("recipes.ce.stages.train.schedule", schedule)), Run("toy_if10", "ce", "resnet8", 0)
    if wanted is None:
        assert config.stage(run, "train").params.schedule.options()["warmup_epochs"] == warmup
        return
    with pytest.raises(UserError) as caught:
        config.stage(run, "train")
    place = f"params.yaml: recipes.ce.stages.train.schedule.warmup_epochs (for {run}): "
    assert str(caught.value).startswith(place) and wanted in str(caught.value)


def test_a_margin_under_a_scaled_head_is_refused() -> None:
    raw = changed("recipes.ce.stages.train.head", "lws")
    raw["recipes"]["ce"]["stages"]["train"]["loss"] = "bagmar"
    with pytest.raises(UserError, match=r"stages\.train\.loss .*: bagmar adds its margin before an lws head's scale"):
        Config(raw).stage(Run("toy_if10", "ce", "resnet8", 0), "train")


def test_a_choice_among_snapshots_needs_some() -> None:
    best = {"extends": "ce", "report": "best", "stages": {"train": {"use": "ce/train"}}}
    best["stages"]["best"] = {"verb": "choose", "part": "test"}
    run = Run("toy_if10", "best", "resnet8", 0)
    with pytest.raises(
        UserError, match=r"stages\.best\.verb .*: no snapshots to choose from; set snapshots_every in ce's"
    ):
        Config(changed("recipes.best", best)).stage(run, "best")
    raw = changed("recipes.best", best)
    raw["recipes"]["ce"]["stages"]["train"]["snapshots_every"] = 5
    assert Config(raw).stage(run, "best").params.part == "test"


def test_a_holdout_has_the_numbers_of_its_whole_set() -> None:
    raw = copy.deepcopy(RAW)
    raw["datasets"]["toy_if50_holdout"] = {"extends": "toy_if10", "holdout": {"val": 1}}
    raw["recipes"]["ce"]["sets"]["toy_if50_holdout"] = {"stages": {"train": {"lr": 0.7}}}
    config = Config(raw)
    params = config.stage(Run("toy_if50_holdout", "ce", "resnet8", 0), "train").params
    assert (params.batch, params.epochs, params.lr) == (2, 8, 0.7)
    assert config.stage(Run("toy_if50", "ce", "resnet8", 0), "train").params.lr == 0.2
    real = load(ROOT / "params.yaml")
    for method, stage in (("mislas", "stage2"), ("balms", "train"), ("bagmar", "train")):
        for base in ("cifar10_lt_if10", "cifar100_lt_if200"):
            runs = [Run(name, method, "resnet32", 0) for name in (base, f"{base}_holdout")]
            one, other = (real.stage(*real.home(run, stage)).params for run in runs)
            assert one == other, (method, base)


def test_every_row_of_every_table_resolves() -> None:
    config = load(ROOT / "params.yaml")
    for table in config.params.tables:
        for run, _ in config.rows(table):
            for stage in config.own_stages(run):
                config.stage(run, stage)


def test_all_problems_in_one_go() -> None:
    raw = changed("recipes.ce.stages.train.epoch", 3)
    raw["recipes"]["bs"]["stages"]["train"]["loss"] = "balanced_sofmax"
    raw["datasets"]["toy_if50"]["num_class"] = 3
    raw["tables"]["toy"]["methods"] = ["cee"]
    found = lines(raw)
    assert [line.split(": ")[1].split(".")[0] for line in found] == ["datasets", "recipes", "recipes", "tables"]


@pytest.mark.parametrize("name", ["a;rm -rf x", "..", "../up", "A", "a b", "tables", "report", "", "x/y", "a\n"])
def test_names_become_paths_so_few_are_allowed(name: str) -> None:
    raw = copy.deepcopy(RAW)
    raw["recipes"][name] = raw["recipes"]["ce"] | {"runs": {}}
    assert "not a usable name" in "".join(lines(raw))
    raw = copy.deepcopy(RAW)
    raw["datasets"][name] = raw["datasets"]["toy_if10"]
    assert "not a usable name" in "".join(lines(raw))


@pytest.mark.parametrize(
    "text",
    ["digits", "a/b/c", "a/b/c/0", "a/b/c/seed", "a/b/c/seed-1", "../b/c/seed0", "a/;ls/c/seed0", "a/b/c/seed0/x"],
)
def test_a_run_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="expected <dataset>/<method>/<arch>/seed<k>"):
        Run.parse(text)


def test_a_run_and_its_path() -> None:
    assert Run.parse("/toy/ce/resnet8/seed12/") == Run("toy", "ce", "resnet8", 12)
    assert str(Run("toy", "ce", "resnet8", 12)) == "toy/ce/resnet8/seed12"


@pytest.mark.parametrize(
    ("run", "lr", "batch", "decay", "epochs"),
    [
        ("toy_if10/ce/resnet8/seed0", 0.2, 4, 0.0, 8),
        ("toy_if10/ce/resnet32/seed0", 0.3, 4, 0.0, 8),
        ("toy_if50/ce/resnet32/seed0", 0.3, 2, 0.0, 8),
        ("toy_if50/ce/resnet32/seed1", 0.3, 2, 0.5, 8),
        ("toy_if50_smoke/ce/resnet32/seed1", 0.3, 2, 0.0, 1),
        ("toy_if50/bs/resnet32/seed1", 0.3, 2, 0.0, 8),
    ],
)
def test_later_layers_win(run: str, lr: float, batch: int, decay: float, epochs: int) -> None:
    params = Config(copy.deepcopy(RAW)).stage(Run.parse(run), "train").params
    assert (params.lr, params.batch, params.weight_decay, params.epochs) == (lr, batch, decay, epochs)


def test_every_number_knows_where_it_came_from() -> None:
    stage = Config(copy.deepcopy(RAW)).stage(Run.parse("toy_if50/bs/resnet32/seed1"), "train")
    assert stage.origin == {
        "epochs": "recipes.ce.sets.toy",
        "lr": "recipes.ce.sets.toy.archs.resnet32",
        "batch": "recipes.ce.sets.toy_if50",
        "schedule": "recipes.ce",
        "loss": "recipes.bs",
    }
    assert (stage.source, stage.verified) == ("ours", True)


def test_a_shared_stage_lives_once() -> None:
    config = Config(copy.deepcopy(RAW))
    run = Run.parse("toy_if50/two/resnet8/seed0")
    assert config.home(run, "stage1") == (Run.parse("toy_if50/ce/resnet8/seed0"), "train")
    assert config.own_stages(run) == ["stage2", "predict", "evaluate"]


def test_a_stage_depends_on_its_own_numbers_only() -> None:
    run = Run.parse("toy_if50/two/resnet8/seed0")
    before = Config(copy.deepcopy(RAW))
    after = Config(changed("recipes.two.stages.stage2.lr", 0.7))
    assert before.stage(run, "stage2").params != after.stage(run, "stage2").params
    for stage in ("predict", "evaluate"):
        assert before.stage(run, stage).params == after.stage(run, stage).params


def test_a_recipe_that_extends_itself() -> None:
    raw = changed("recipes.ce.extends", "bs")
    assert any("extends itself" in line for line in lines(raw))


def test_rows_of_a_table_and_of_its_smoke_variant() -> None:
    config = Config(copy.deepcopy(RAW))
    found = [f"{run}/{node}" for run, node in config.rows("toy")]
    assert len(found) == 2 * 2 + 2 + 2 and "toy_if50/two/resnet8/seed1/stage1" in found
    assert all("toy_if50_smoke" in str(run) and run.seed == 0 for run, _ in config.rows("toy_smoke"))
    with pytest.raises(UserError, match="no such table 'toi'; did you mean 'toy'"):
        config.rows("toi")


def test_files_that_are_no_parameters(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; run from the project's root"):
        load(tmp_path / "params.yaml")
    for text in ("a: [1", "just text", "[1, 2]", "", "recipes: 3"):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(UserError, match=r"params\.yaml"):
            load(tmp_path / "params.yaml")


def test_the_projects_own_parameters() -> None:
    config = load(ROOT / "params.yaml")
    assert {"digits", "fashion", "cifar10", "cifar100", "imagenet", "inat18", "places"} <= set(config.params.tables)
    for name in config.params.tables:
        for run, node in [*config.rows(name), *config.rows(f"{name}_smoke")]:
            for stage in config.stages_of(run):
                home, inner = config.home(run, stage)
                config.stage(home, inner)
            assert node


def test_both_drivers_read_the_same_numbers() -> None:
    ruamel = pytest.importorskip("ruamel.yaml")
    text = (ROOT / "params.yaml").read_text()
    assert yaml.safe_load(text) == ruamel.YAML(typ="safe").load(text)


def test_canonical_text() -> None:
    assert canonical({"b": 1, "a": [0.1]}) == canonical({"a": [0.1], "b": 1}) == '{"a": [0.1], "b": 1}'
    with pytest.raises(ValueError):
        canonical(float("nan"))


GRID = {"datasets": ["toy_if10"], "archs": ["resnet8"], "seeds": [0], "tables": {"toy": "results/metrics/toy_if50"}}
BRANCHED = {
    "paper": "btm",
    "stages": {
        "branch": {"use": "ce/train"},
        "merge": {"verb": "merge", "rule": "mean", "count": 3},
    },
    "sets": {"toy": {"arch": "resnet8"}},
}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"datasets": ["toy_if1"]}, "grid.datasets: toy_if1: no such data set; did you mean 'toy_if10'?"),
        ({"baselines": ["cce"]}, "grid.baselines: cce: no such recipe; did you mean 'ce'?"),
        ({"tables": {"tyo": "x"}}, "grid: tables: no such table 'tyo'; did you mean 'toy'?"),
        ({"btm": ["b"], "branches": [0, 1]}, "grid.branches: [0, 1]: b on toy_if10 merges 3; list [0, 1, 2]"),
        (
            {"btm_merged": ["b"], "branches": [1, 2, 3]},
            "grid.branches: [1, 2, 3]: b on toy_if10 merges 3; list [0, 1, 2]",
        ),
    ],
)
def test_a_grid_that_the_recipes_contradict(changes: dict, wanted: str) -> None:
    raw = changed("grid", {**GRID, **changes})
    raw["recipes"]["b"] = copy.deepcopy(BRANCHED)
    assert lines(raw) == [f"params.yaml: {wanted}"]


def test_a_grid_that_fits() -> None:
    raw = changed("grid", {**GRID, "btm": ["b"], "branches": [0, 1, 2]})
    raw["recipes"]["b"] = copy.deepcopy(BRANCHED)
    Config(raw)
