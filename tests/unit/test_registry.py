"""Names and options of the registries, read from source, are those that the registries themselves hold."""

from __future__ import annotations

import importlib

import pytest

from lt import registry
from lt.errors import UserError

HERE = [kind for kind in registry.KINDS if registry.members(kind)]


@pytest.mark.parametrize("kind", HERE)
def test_the_names_are_the_registrys_own(kind: str) -> None:
    spec = registry.KINDS[kind]
    assert set(registry.members(kind)) == set(getattr(importlib.import_module(spec.module), spec.table))


def test_every_kind_is_there() -> None:
    assert set(HERE) == set(registry.KINDS)


@pytest.mark.parametrize("kind", HERE)
def test_homes_exist(kind: str) -> None:
    for name, member in registry.members(kind).items():
        importlib.import_module(member.module)
        assert member.module.startswith("lt."), name


def test_networks() -> None:
    from lt import models

    assert set(registry.archs()) == set(models.known_archs())
    assert registry.arch_module("resnet32") == "lt.models.resnet_cifar"
    with pytest.raises(UserError, match="no such network 'resnet33'; did you mean 'resnet3"):
        registry.arch_module("resnet33")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"loss": "ldma"}, "p.loss: no such loss 'ldma'; did you mean 'ldam'?"),
        (
            {"loss": {"name": "label_aware_smoothing", "heads": 0.3}},
            "p.loss.heads: label_aware_smoothing takes no such",
        ),
        ({"sampler": {"name": "class_aware", "j": 4}}, "p.sampler.j: class_aware takes no such option"),
        ({"sampler": {"name": "class_aware", "labels": 4}}, "p.sampler.labels"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"augment": "crop_flop"}, "did you mean 'crop_flip'"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"loss": {"name": "bagmar", "form": "papr"}}, "p.loss.form: no such form 'papr'; did you mean 'paper'?"),
        (
            {"augment": {"name": "rrc", "interpolation": "area"}},
            "p.augment.interpolation: no such interpolation 'area'",
        ),
        ({"task": "clasify"}, "did you mean 'classify'"),
        ({"loss": {"name": "focal", "gamma": "2"}}, "p.loss.gamma: expected a number, found the text '2'"),
        ({"loss": {"name": "focal", "gamma": True}}, "p.loss.gamma: expected a number, found true"),
        ({"loss": {"name": "focal", "gamma": None}}, "p.loss.gamma: expected a number, found nothing"),
        ({"loss": {"name": "ldam", "reweight_epoch": 1.5}}, "reweight_epoch: expected a whole number, found 1.5"),
        ({"loss": {"name": "ldam", "scaled_logits": 1}}, "scaled_logits: expected true or false, found 1"),
        ({"augment": {"name": "bagmar_large", "fill": [1.5]}}, "fill: expected a list of whole numbers, found the"),
        ({"augment": {"name": "simclr", "scale": 0.5}}, "scale: expected a list of numbers, found 0.5"),
        ({"augment": {"name": "simclr_large", "sise": 3}}, "sise: simclr_large takes no such option; did you mean"),
        ({"groups": {"name": "layer_decay", "dekay": 0.5}}, "dekay: layer_decay takes no such option; did you mean"),
    ],
)
def test_one_line_a_mistake(values: dict, wanted: str) -> None:
    found = list(registry.check(values, "p", "train"))
    assert len(found) == 1 and wanted in found[0]


def test_what_an_option_may_be_is_what_its_function_takes() -> None:
    """`Literal` beside an argument promises; the function itself must refuse the rest and take all of it."""
    from lt.losses import build

    found = {n: m.choices for n, m in registry.members("loss").items() if m.choices}
    assert {"bagmar", "class_balanced", "label_aware_smoothing", "bal_bce", "lade"} <= set(found)
    for name, choices in found.items():
        for option, listed in choices.items():
            fixed = {"smoothing": 0.1} if name == "label_smoothing" else {}
            for value in listed:
                more = {"power": 2.0} if value == "exp" else {}
                build(name, class_counts=[9, 5, 2], **fixed, **more, **{option: value})
            with pytest.raises(UserError):
                build(name, class_counts=[9, 5, 2], **fixed, **{option: "nothing of it"})


def test_what_is_right_is_silent() -> None:
    values = {"loss": {"name": "label_aware_smoothing", "head": 0.3, "tail": 0.0}, "sampler": None, "lr": 0.1}
    assert not list(registry.check(values, "p", "train"))


def test_what_an_annotation_says() -> None:
    values = {
        "loss": {"name": "ldam", "scale": 30, "reweight_epoch": None, "scaled_logits": True},
        "augment": {"name": "bagmar_large", "fill": [1, 2, 3], "scale": [0.2, 1]},
        "groups": {"name": "all", "lr_scales": {"fc.weight": 1}},
        "sampler": {"name": "class_priority", "weights": object()},  # of a kind that is not known here
    }
    assert not list(registry.check(values, "p", "train"))


def test_what_must_be_said() -> None:
    values = {"schedule": {"name": "ride", "step1": 1}, "rule": {"name": "balanced"}, "task": "classify"}
    assert dict(registry.missing(values, "train")) == {
        "schedule.step2": "missing; ride needs it",
        "schedule.gamma": "missing; ride needs it",
    }
    assert dict(registry.missing(values, "subset")).keys() == {"schedule.step2", "schedule.gamma", "rule.k"}


def test_only_the_modules_that_are_named() -> None:
    assert registry.modules({"loss": {"name": "balanced_softmax"}}) == ("lt.losses.balanced",)
