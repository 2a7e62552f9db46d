"""What is wrong with a resolved stage: values that go together badly, of whatever layers they come from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lt import registry
from lt.arguments import Argument
from lt.errors import nearest
from lt.schema import Choose, Evaluate, Image, Named, StageImage, Strict, Subset, Train
from lt.shapes import shown

WARMUP = {"coslrwarmup": (2, 2), "coslr_official": (0, 5), "mae": (0, 0), "ride": (0, 5)}  # the least, and unsaid
STORED = {"tau_norm": ("features", "weights"), "ncm": ("features",)}  # what a post-hoc step reads beside logits
BLIND = ("official", "uniform")  # samplers of `dpp` that need no predictions
PRETRAINED = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
PRETRAINED += ("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2")  # torchvision's names

FREE = ("options", "task_options", "batchformer")  # mappings whose keys the network or the task knows

Problems = Iterator[tuple[str, str]]  # (key, problem)


def problems(params: Strict, arch: str) -> Problems:
    chosen = _chosen(params)
    yield from registry.missing(chosen, params.verb)
    for key, options in [*chosen.items(), *((k, getattr(params, k, None) or {}) for k in FREE)]:
        wrong = ((k, v) for k, v in options.items() if isinstance(v, float) and not math.isfinite(v))
        yield from ((f"{key}.{option}", f"expected a number, found {value}") for option, value in wrong)
    if isinstance(params, Train):
        yield from _train(params, arch)
    if isinstance(params, Evaluate):
        yield from _posthoc(params.posthoc, params.tuning)
    if isinstance(params, Choose):
        yield from _posthoc(params.posthoc, None)
    if isinstance(params, Subset):
        yield from _subset(params)
    if isinstance(image := getattr(params, "image", None), StageImage):
        yield from statistics(image, "image")


def _chosen(params: Strict) -> dict[str, Any]:
    found = {key: getattr(params, key) for key in type(params).model_fields}
    return {key: {"name": v.name, **v.options()} for key, v in found.items() if isinstance(v, Named)}


def statistics(image: Image | StageImage, place: str) -> Problems:
    """One mean and one deviation for all channels, or one for each."""
    channels = getattr(image, "channels", None)
    for key in ("mean", "std"):
        length = len(getattr(image, key) or [0.0])
        if length not in {1, channels or 3}:
            yield f"{place}.{key}", f"expected {'1 number' if channels == 1 else '1 or 3 numbers'}, found {length}"


def _train(params: Train, arch: str) -> Problems:
    yield from _warmup(params)
    if params.head and (params.head.name, params.loss.name) == ("lws", "bagmar"):
        yield "loss", "bagmar adds its margin before an lws head's scale; that pair is not offered"
    if params.pretrained and params.pretrained not in PRETRAINED:
        yield "pretrained", f"no such ImageNet weights '{params.pretrained}'{nearest(params.pretrained, PRETRAINED)}"
    name = params.net or arch
    if name in registry.archs():
        yield from _options(params.options, *registry.network(name), "options", name)
    task = registry.members("task").get(params.task)
    if task and task.arguments is not None:
        free = {k: a for k, a in task.arguments.items() if k not in registry.KINDS["task"].given}
        yield from _options(params.task_options, free, True, "task_options", params.task)
    yield from _options(params.batchformer or {}, registry.batchformer(), True, "batchformer", "BatchFormer")


def _warmup(params: Train) -> Problems:
    name, options = params.schedule.name, params.schedule.options()
    if name in WARMUP:
        least, usual = WARMUP[name]
        epochs = options.get("warmup_epochs", usual)
        number = isinstance(epochs, int | float) and not isinstance(epochs, bool)
        if not number or not least <= epochs < params.epochs:
            wanted = f"{least} or more and less than the {params.epochs} epochs"
            yield "schedule.warmup_epochs", f"expected {wanted}, found {epochs!r}"
    if name == "ride" and {"step1", "step2"} <= options.keys() and options["step1"] > options["step2"]:
        yield "schedule.step2", f"expected step1 ({options['step1']}) or later, found {options['step2']}"


def _options(given: dict, takes: Mapping[str, Argument] | None, closed: bool, key: str, name: str) -> Problems:
    """`closed`: nothing else is taken than what the source says."""
    if takes is None:
        return
    said = given if closed else {option: value for option, value in given.items() if option in takes}
    said = {k: v for k, v in said.items() if not isinstance(v, float) or math.isfinite(v)}  # said above
    for line in registry.check_options(said, takes, frozenset(), key, name):
        place, _, problem = line.partition(": ")
        yield place, problem


def _posthoc(posthoc: Named | None, tuning: str | None) -> Problems:
    """Settings of a post-hoc step that the tuning split, or its absence, leaves without an answer."""
    if posthoc is None:
        return
    options, tau = posthoc.options(), posthoc.options().get("tau")
    if isinstance(tau, str) and tau != "tuned":
        yield "posthoc.tau", f"expected a number or tuned, found {shown(tau)}"
    elif isinstance(tau, int | float) and tau < 0:
        yield "posthoc.tau", f"expected a number of at least 0, found {tau}"
    asked = {"tau_selected_on": options.get("tau_selected_on", "val")} if tau == "tuned" else {}
    asked |= {"stats": options["stats"]} if "stats" in options else {}
    asked |= {"name": "train"} if posthoc.name == "ncm" else {}
    for key, split in asked.items():
        if split != "test" and split != tuning:
            what = "takes class means of train" if key == "name" else f"is {split}"
            yield f"posthoc.{key}", f"{what}, the tuning split is {tuning or 'not set'}; set tuning: {split}"


def _subset(params: Subset) -> Problems:
    options = params.rule.options()
    if isinstance(k := options.get("k"), int) and k < 1:
        yield "rule.k", f"expected 1 or more, found {k}"
    if params.rule.name == "dpp" and not params.of and options.get("sampler", "exact") not in BLIND:
        yield "of", "missing; dpp draws from a stage's predictions, as of: stage1"


def unstored(posthoc: Named | None, outputs: list[str]) -> Problems:
    """What a post-hoc step reads and the predictions do not hold."""
    for name in STORED.get(posthoc.name, ()) if posthoc else ():
        if name not in outputs:
            yield (
                "posthoc.name",
                f"{posthoc.name} reads {name}, which predict does not store; add it to predict.outputs",
            )
