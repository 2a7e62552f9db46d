"""Values of a resolved stage that go together badly are one line."""

from __future__ import annotations

import copy

import pytest
from toy_params import NUMBERS, TOY

from lt import registry
from lt.config import Config, Run
from lt.errors import UserError

RAW = {
    "seeds": [0],
    "datasets": {"toy": dict(TOY)},
    "recipes": {
        "ce": {
            "paper": "baselines",
            "stages": {
                "train": dict(NUMBERS),
                "subset": {"verb": "subset", "rule": {"name": "balanced", "k": 5}},
                "predict": {"outputs": ["features", "weights"]},
            },
            "sets": {"toy": {"arch": "resnet8"}},
        }
    },
    "tables": {},
}


def resolved(stage: str, body: dict, arch: str = "resnet8", **stages: dict) -> list[str]:
    """The problems of one stage, without where it stands."""
    raw = copy.deepcopy(RAW)
    for name, more in {stage: body, **stages}.items():
        raw["recipes"]["ce"]["stages"][name] = raw["recipes"]["ce"]["stages"].get(name, {}) | more
    run = Run("toy", "ce", arch, 0)
    try:
        Config(raw).stage(run, stage)
    except UserError as error:
        place = f"params.yaml: recipes.ce.stages.{stage}."
        lines = str(error).splitlines()
        assert all(line.startswith(place) for line in lines), lines
        return [line.removeprefix(place).replace(f" (for {run})", "") for line in lines]
    return []


def ride(**more: object) -> dict:
    return {"schedule": {"name": "ride", "step1": 5, "step2": 7, "gamma": 0.1, "warmup_epochs": 2, **more}}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (
            {"schedule": {"name": "coslrwarmup", "warmup_epochs": 2}},
            ["schedule.base_lr: missing; coslrwarmup needs it"],
        ),
        (
            {"schedule": {"name": "ride", "gamma": 0.1}},
            ["schedule.step1: missing; ride needs it", "schedule.step2: missing; ride needs it"],
        ),
        ({"sampler": "progressive"}, ["sampler.epochs: missing; progressive needs it"]),
        ({"mix": "mixup"}, ["mix.alpha: missing; mixup needs it"]),
        ({"groups": "layer_decay"}, ["groups.decay: missing; layer_decay needs it"]),
        (ride(), []),
        (
            ride(warmup_epochs=9),
            ["schedule.warmup_epochs: expected 0 or more and less than the 9 epochs, found 9"],
        ),
        (ride(step1=8), ["schedule.step2: expected step1 (8) or later, found 7"]),
        ({"options": {"widht": 8}}, ["options.widht: resnet8 takes no such option; did you mean 'width'?"]),
        ({"options": {"width": "8"}}, ["options.width: expected a whole number, found the text '8'"]),
        ({"net": "ride_resnet8", "options": {"experts": 2.5}}, ["options.experts: expected a whole number, found 2.5"]),
        ({"net": "ride_resnet8", "options": {"experts": 2, "router": True, "top_k": 3}}, []),
        ({"net": "resnet50", "options": {"init": 3}}, ["options.init: expected text, found 3"]),
        ({"net": "resnet8x"}, ["net: no such network 'resnet8x'; did you mean 'resnet8'?"]),
        ({"batchformer": {"head": 4}}, ["batchformer.head: BatchFormer takes no such option; did you mean 'heads'?"]),
        ({"batchformer": {"group_size": None}}, []),
        (
            {"task": "route", "task_options": {"pos_weight": "1e2"}},
            ["task_options.pos_weight: expected a number, found the text '1e2'; write 1.0e-4, not 1e-4"],
        ),
        ({"task_options": {"model": 1}}, ["task_options.model: classify takes no such option"]),
        (
            {"pretrained": "resnet153"},
            ["pretrained: no such ImageNet weights 'resnet153'; did you mean 'resnet152'?"],
        ),
        ({"mix": {"name": "mixup_cutmix", "x": float("inf")}}, ["mix.x: expected a number, found inf"]),
        ({"options": {"width": float("nan")}}, ["options.width: expected a number, found nan"]),
        ({"image": {"mean": [0.1, 0.2]}}, ["image.mean: expected 1 or 3 numbers, found 2"]),
    ],
)
def test_training(body: dict, wanted: list[str]) -> None:
    assert resolved("train", body) == wanted


def test_a_warm_up_that_is_no_number_is_seen_in_the_layer() -> None:
    found = resolved("train", {"schedule": {"name": "mae", "warmup_epochs": True}})
    assert found == ["schedule.warmup_epochs: expected a number, found true"]


TUNED = {"tau": "tuned", "tau_selected_on": "val"}


@pytest.mark.parametrize(
    ("posthoc", "tuning", "wanted"),
    [
        ({"name": "pn", **TUNED}, "val", []),
        ({"name": "pn", "tau": "tuned", "tau_selected_on": "test"}, None, []),
        ({"name": "pn", "tau": "tunned"}, None, ["posthoc.tau: expected a number or tuned, found the text 'tunned'"]),
        ({"name": "pn", "tau": -1.0}, None, ["posthoc.tau: expected a number of at least 0, found -1.0"]),
        (
            {"name": "pn", "tau": "tuned"},
            None,
            ["posthoc.tau_selected_on: is val, the tuning split is not set; set tuning: val"],
        ),
        (
            {"name": "tau_norm", **TUNED},
            "train",
            ["posthoc.tau_selected_on: is val, the tuning split is train; set tuning: val"],
        ),
        (
            {"name": "pn", "stats": "train"},
            None,
            ["posthoc.stats: is train, the tuning split is not set; set tuning: train"],
        ),
        ({"name": "ncm"}, "train", []),
        (
            {"name": "ncm"},
            None,
            ["posthoc.name: takes class means of train, the tuning split is not set; set tuning: train"],
        ),
    ],
)
def test_a_step_on_predictions(posthoc: dict, tuning: str | None, wanted: list[str]) -> None:
    assert resolved("evaluate", {"posthoc": posthoc, "tuning": tuning}) == wanted


@pytest.mark.parametrize(
    ("posthoc", "outputs", "wanted"),
    [
        ({"name": "tau_norm"}, ["features"], "weights"),
        ({"name": "ncm"}, ["weights"], "features"),
    ],
)
def test_a_step_reads_what_is_stored(posthoc: dict, outputs: list[str], wanted: str) -> None:
    found = resolved("evaluate", {"posthoc": posthoc, "tuning": "train"}, predict={"outputs": outputs})
    line = f"{posthoc['name']} reads {wanted}, which predict does not store; add it to predict.outputs"
    assert found == [f"posthoc.name: {line}"]


def test_an_epoch_is_chosen_without_a_tuning_split() -> None:
    body = {"verb": "choose", "part": "test", "posthoc": {"name": "pn", "tau": "tuned"}}
    (found,) = resolved("best", body, train={"snapshots_every": 1})
    assert found.startswith("posthoc.tau_selected_on: is val, the tuning split is not set")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({"rule": {"name": "balanced", "k": 0}}, ["rule.k: expected 1 or more, found 0"]),
        ({"rule": "balanced"}, ["rule.k: missing; balanced needs it"]),
        ({"rule": {"name": "dpp", "k": 5}}, ["of: missing; dpp draws from a stage's predictions, as of: stage1"]),
        ({"rule": {"name": "dpp", "k": 5, "sampler": "uniform"}}, []),
        ({"rule": {"name": "dpp", "k": 5}, "of": "trian"}, ["of: no such stage 'trian'; did you mean 'train'?"]),
        ({"rule": {"name": "dpp", "k": 5}, "of": "train"}, []),
    ],
)
def test_subsets(body: dict, wanted: list[str]) -> None:
    assert resolved("subset", body) == wanted


def test_options_of_networks_are_their_own() -> None:
    from lt import models

    for arch in registry.archs():
        takes, closed = registry.network(arch)
        known = models._options(models.factory(arch))
        if closed and known is not None:
            assert set(takes) == known, arch
