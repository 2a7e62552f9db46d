"""What the registries hold, read from their source: names, options and home modules, without importing torch.

Each kind is one dict literal `NAME = {"key": factory, ...}`; a factory's keyword arguments are its options.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lt import code
from lt.errors import UserError, nearest


@dataclass(frozen=True)
class Member:
    module: str
    options: frozenset[str] | None  # None: takes anything
    choices: Mapping[str, tuple] = field(default_factory=dict)  # options annotated as `Literal`


@dataclass(frozen=True)
class Kind:
    module: str
    table: str
    given: frozenset[str]  # arguments that the product passes itself
    function: str | None = None  # one function takes the options of every entry


def _kind(module: str, table: str, *given: str, function: str | None = None) -> Kind:
    return Kind(module, table, frozenset(given), function)


KINDS = {
    "loss": _kind("lt.losses", "LOSSES", "class_counts"),
    "sampler": _kind("lt.sampling.samplers", "SAMPLERS", "labels", "num_classes", "source"),
    "augment": _kind("lt.data.augment", "PRESETS", "mean", "std"),
    "eval_augment": _kind("lt.data.augment", "PRESETS", "mean", "std"),
    "schedule": _kind("lt.optim", "SCHEDULES", "lr", "epochs", "steps_per_epoch"),
    "optimizer": _kind("lt.optim", "OPTIMIZERS", "groups", "lr", "params"),
    "groups": _kind("lt.optim", "PARAM_RULES", "model", "weight_decay", "rule", function="param_groups"),
    "task": _kind("lt.tasks", "TASKS"),
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


def _options(node: ast.AST | None, tree: ast.Module | None = None) -> frozenset[str] | None:
    """Keyword names that a factory takes; through base classes of its own file where it passes `**rest` on."""
    bases: list[str] = []
    if isinstance(node, ast.ClassDef):
        bases = [b.id for b in node.bases if isinstance(b, ast.Name)]
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not inits:
            fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
            return frozenset(fields) if fields and node.decorator_list else None
        node = inits[0]
    if not isinstance(node, ast.FunctionDef | ast.Lambda):
        return None
    names = {a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]} - {
        "self",
        "cls",
    }
    if node.args.kwarg:
        parents = [n for n in (tree.body if tree else ()) if isinstance(n, ast.ClassDef) and n.name in bases]
        above = _options(parents[0], tree) if parents else None
        return None if above is None else frozenset(names | above)
    return frozenset(names)


def _choices(node: ast.AST | None) -> dict[str, tuple]:
    """Arguments that say `Literal["a", "b"]`, and what it lists."""
    inits = [n for n in getattr(node, "body", ()) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    found = {}
    for given in ast.walk(inits[0].args if inits else getattr(node, "args", ast.arguments())):
        match given:
            case ast.arg(arg=name, annotation=ast.Subscript(value=ast.Name(id="Literal"), slice=listed)):
                found[name] = ast.literal_eval(listed)
    return found


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
    path = code.module_path(home)
    return Member(home, _options(node, code._tree(path) if path else None), _choices(node))


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
    if spec.function:
        return dict.fromkeys(table or {}, _home(spec.module, spec.function))
    return {name: _member(spec.module, tree, value) for name, value in (table or {}).items()}


def check(values: dict[str, Any], place: str, verb: str = "") -> Iterator[str]:
    """One line for each name that no registry holds and each option that its entry does not take."""
    for key, value in values.items():
        kind = f"{verb}_{key}" if key == "rule" or (verb, key) == ("evaluate", "groups") else key
        if kind not in KINDS or value is None:
            continue
        known = members(kind)
        name = value if isinstance(value, str) else value.get("name")
        if not known or name is None:
            continue
        if name not in known:
            yield f"{place}.{key}: no such {key.replace('_', ' ')} '{name}'{nearest(name, known)}"
            continue
        allowed = known[name].options
        for option in value if isinstance(value, dict) and allowed is not None else ():
            if option != "name" and option not in allowed - KINDS[kind].given:
                hint = nearest(option, allowed - KINDS[kind].given)
                yield f"{place}.{key}.{option}: {name} takes no such option{hint}"
            elif option in (listed := known[name].choices) and value[option] not in listed[option]:
                hint = nearest(str(value[option]), listed[option])
                yield f"{place}.{key}.{option}: no such {option} '{value[option]}'{hint}"


def modules(values: dict[str, Any]) -> tuple[str, ...]:
    """The modules behind the registry members that a stage names."""
    found = set()
    for key, value in values.items():
        if key in KINDS and value is not None:
            name = value if isinstance(value, str) else value["name"]
            if name in members(key):
                found.add(members(key)[name].module)
    return tuple(sorted(found))
