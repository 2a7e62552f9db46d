"""What the registries hold, read from their source: names, options and home modules, without importing torch.

Each kind is one dict literal `NAME = {"key": factory, ...}`; a factory's keyword arguments are its options.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt import arguments, code
from lt.arguments import Argument
from lt.errors import UserError, nearest


@dataclass(frozen=True)
class Member:
    module: str
    arguments: Mapping[str, Argument] | None  # None: takes anything

    @property
    def choices(self) -> dict[str, tuple]:
        """Options annotated as `Literal`, and what it lists."""
        return {name: argument.choices for name, argument in (self.arguments or {}).items() if argument.choices}


@dataclass(frozen=True)
class Kind:
    module: str
    table: str
    given: frozenset[str]  # arguments that the product passes itself


def _kind(module: str, table: str, *given: str) -> Kind:
    return Kind(module, table, frozenset(given))


KINDS = {
    "loss": _kind("lt.losses", "LOSSES", "class_counts"),
    "sampler": _kind("lt.sampling.samplers", "SAMPLERS", "labels", "num_classes", "source"),
    "augment": _kind("lt.data.augment", "PRESETS", "mean", "std"),
    "eval_augment": _kind("lt.data.augment", "PRESETS", "mean", "std"),
    "schedule": _kind("lt.optim", "SCHEDULES", "lr", "epochs", "steps_per_epoch"),
    "optimizer": _kind("lt.optim", "OPTIMIZERS", "groups", "lr", "params"),
    "groups": _kind("lt.optim", "PARAM_RULES", "model", "weight_decay"),
    "task": _kind("lt.tasks", "TASKS", "model", "loss", "mix", "sampler", "balanced", "optimizer", "teacher"),
    "mix": _kind("lt.tasks.mixing", "MIXES", "num_classes", "class_counts"),
    "head": _kind("lt.models.heads", "HEADS", "in_features", "feature_dim", "num_classes"),
    "subset_rule": _kind("lt.stages.subset", "RULES", "source", "lists", "index", "seed", "inputs"),
    "merge_rule": _kind("lt.merge", "MERGES", "states", "score", "chosen", "stage1"),
    "figure": _kind("lt.stages.plot", "DRAW", "out", "runs"),
    "evaluate_groups": _kind("lt.data.shots", "SHOT_RULES", "class_counts", "family"),
    "posthoc": _kind("lt.posthoc", "POSTHOC", "logits", "labels", "class_counts", "predictions"),
}


def _literal(tree: ast.Module, table: str) -> dict[str, ast.expr] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == table for t in targets) and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {k.value: v for k, v in pairs if isinstance(k, ast.Constant)}
    return None


def _imported(tree: ast.Module, name: str) -> tuple[str, str] | None:
    """(module, name there) of a name that a file imports, or (module, "") for a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    inner = f"{node.module}.{alias.name}"
                    return (inner, "") if code.module_path(inner) else (node.module, alias.name)
    return None


def _find(module: str, name: str) -> tuple[str, ast.AST | None]:
    path = code.module_path(module)
    if path is None:
        return module, None
    tree = code._tree(path)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return module, node
    found = _imported(tree, name)
    return _find(*found) if found and found[1] else (found[0] if found else module, None)


def _member(module: str, tree: ast.Module, value: ast.expr) -> Member:
    if isinstance(value, ast.Name):
        return _home(module, value.id)
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        found = _imported(tree, value.value.id)
        if found and not found[1]:
            return _home(found[0], value.attr)
    if isinstance(value, ast.Constant) and isinstance(value.value, str):  # "lt.tasks.classify:Classify"
        home, _, name = value.value.partition(":")
        return _home(home, name) if name else Member(home, None)
    if isinstance(value, ast.Call) and value.args:  # partial(Factory, option=...)
        return _member(module, tree, value.args[0])
    return Member(module, None)


def _home(module: str, name: str) -> Member:
    home, node = _find(module, name)
    return Member(home, arguments.of(home, node, _find))


@functools.cache
def names(module: str, table: str) -> tuple[str, ...]:
    """The keys of a table whose entries take no options."""
    return tuple(_literal(code._tree(code.module_path(module)), table) or ())


ARCH_MODULES = (
    "lt.models.resnet_cifar",
    "lt.models.resnet",
    "lt.models.experts",
    "lt.models.vit",
    "lt.models.mae",
)


@functools.cache
def archs() -> dict[str, str]:
    """Every network's name, and the module that makes it."""
    found: dict[str, str] = {}
    for module in ARCH_MODULES:
        path = code.module_path(module)
        if path:
            found.update(dict.fromkeys(_literal(code._tree(path), "ARCHS") or {}, module))
    return found


PRESET = frozenset({"name", "num_classes", "size", "default_decoder", "block", "layers", "blocks", "plan"})
OPEN = {"lt.models.resnet": "ResNet", "lt.models.experts": "RideNet"}  # factories that pass the rest on


@functools.cache
def network(arch: str) -> tuple[Mapping[str, Argument] | None, bool]:
    """The options of a network, and whether it takes no other."""
    module = arch_module(arch)
    tree, closed = code._tree(code.module_path(module)), module not in OPEN
    if closed:
        takes = _member(module, tree, (_literal(tree, "ARCHS") or {})[arch]).arguments
    else:
        takes = arguments.said(_find(module, OPEN[module])[1])
    return None if takes is None else {option: a for option, a in takes.items() if option not in PRESET}, closed


@functools.cache
def batchformer() -> Mapping[str, Argument]:
    """The options of `batchformer`; the network says the width."""
    takes = _home("lt.models.batchformer", "BatchFormer").arguments or {}
    return {option: argument for option, argument in takes.items() if option != "dim"}


def arch_module(arch: str) -> str:
    if arch not in archs():
        raise UserError(f"no such network '{arch}'{nearest(arch, archs())}")
    return archs()[arch]


@functools.cache
def members(kind: str) -> dict[str, Member]:
    """Every entry of a registry, by name."""
    spec = KINDS[kind]
    path: Path | None = code.module_path(spec.module)
    if path is None:
        return {}
    tree = code._tree(path)
    table = _literal(tree, spec.table)
    return {name: _member(spec.module, tree, value) for name, value in (table or {}).items()}


def _chosen(values: dict[str, Any], verb: str) -> Iterator[tuple[str, Kind, str, dict[str, Any], dict[str, Member]]]:
    """(key, kind, name, options, known entries) of each key of a stage that names an entry."""
    for key, value in values.items():
        kind = f"{verb}_{key}" if key == "rule" or (verb, key) == ("evaluate", "groups") else key
        if kind not in KINDS or not isinstance(value, str | dict) or not members(kind):
            continue
        options = {} if isinstance(value, str) else {k: v for k, v in value.items() if k != "name"}
        name = value if isinstance(value, str) else value.get("name")
        if name is not None:
            yield key, KINDS[kind], name, options, members(kind)


def check(values: dict[str, Any], place: str, verb: str = "") -> Iterator[str]:
    """One line for each name that no registry holds, and each option that its entry does not take or not so."""
    for key, kind, name, options, known in _chosen(values, verb):
        if name not in known:
            yield f"{place}.{key}: no such {key.replace('_', ' ')} '{name}'{nearest(name, known)}"
            continue
        if known[name].arguments is not None:
            yield from check_options(options, known[name].arguments, kind.given, f"{place}.{key}", name)


def check_options(
    options: dict[str, Any], takes: Mapping[str, Argument], given: frozenset[str], place: str, name: str
) -> Iterator[str]:
    """One line for each option that is not taken, is none of those listed, or is of another kind."""
    free = {option: argument for option, argument in takes.items() if option not in given}
    for option, value in options.items():
        if option not in free:
            yield f"{place}.{option}: {name} takes no such option{nearest(option, free)}"
        elif (listed := free[option].choices) and value not in listed:
            yield f"{place}.{option}: no such {option} '{value}'{nearest(str(value), listed)}"
        elif problem := free[option].problem(value):
            yield f"{place}.{option}: {problem}"


def missing(values: dict[str, Any], verb: str) -> Iterator[tuple[str, str]]:
    """(key, problem) for each option that an entry needs and a stage, all its layers together, does not say."""
    for key, kind, name, options, known in _chosen(values, verb):
        for option, argument in (known[name].arguments or {}).items() if name in known else ():
            if argument.needed and option not in kind.given and option not in options:
                yield f"{key}.{option}", f"missing; {name} needs it"


def modules(values: dict[str, Any]) -> tuple[str, ...]:
    """The modules behind the registry members that a stage names."""
    found = set()
    for key, value in values.items():
        if key in KINDS and value is not None:
            name = value if isinstance(value, str) else value["name"]
            if name in members(key):
                found.add(members(key)[name].module)
    return tuple(sorted(found))
