"""The options of a factory, read from its source: their names, what they may be, and which of them must be said."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lt import code
from lt.shapes import hint, shown

NUMBER = (int, float)
SIMPLE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "float": ("a number", lambda v: isinstance(v, NUMBER) and not isinstance(v, bool) and math.isfinite(v)),
    "int": ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
    "str": ("text", lambda v: isinstance(v, str)),
    "dict": ("a mapping", lambda v: isinstance(v, dict)),
    "Mapping": ("a mapping", lambda v: isinstance(v, dict)),
    "list": ("a list", lambda v: isinstance(v, list)),
    "tuple": ("a list", lambda v: isinstance(v, list)),
    "Sequence": ("a list", lambda v: isinstance(v, list)),
    "Iterable": ("a list", lambda v: isinstance(v, list)),
}


@dataclass(frozen=True)
class Argument:
    """An option: its annotation, and whether it has no default."""

    annotation: ast.expr | None
    needed: bool

    @property
    def choices(self) -> tuple:
        """What `Literal["a", "b"]` lists."""
        return _listed(self.annotation)

    def problem(self, value: Any) -> str | None:
        """What the annotation says against a value; nothing where it is of a kind that is not known here."""
        expected, fits = _kind(self.annotation)
        if expected is None or fits(value):
            return None
        return f"expected {expected}, found {shown(value)}{hint(value) if 'number' in expected else ''}"


def _listed(node: ast.expr | None) -> tuple:
    match node:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=listed):
            found = ast.literal_eval(listed)
            return found if isinstance(found, tuple) else (found,)
    return ()


Kind = tuple[str | None, Callable[[Any], bool]]
UNKNOWN: Kind = (None, lambda value: True)


@functools.cache
def _kind(node: ast.expr | None) -> Kind:
    """(what is expected, whether a value is that) of an annotation."""
    if listed := _listed(node):
        return " or ".join(map(str, listed)), lambda v: v in listed
    match node:
        case ast.Name(id=name):
            return SIMPLE.get(name, UNKNOWN)
        case ast.Constant(value=None):
            return "null", lambda v: v is None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            (one, first), (other, second) = _kind(left), _kind(right)
            if one is None or other is None:
                return UNKNOWN
            return (one if other == "null" else f"{one} or {other}"), lambda v: first(v) or second(v)
        case ast.Subscript(value=ast.Name(id="tuple" | "list" | "Sequence" | "Iterable"), slice=inner):
            return _list(inner)
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[_, inner])):
            return _mapping(inner)
    return UNKNOWN


def _list(inner: ast.expr) -> Kind:
    """`Sequence[float]` and `tuple[int, ...]` of any length, `tuple[float, float]` of two."""
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    one, fits = _kind(parts[0])
    alike = len({ast.dump(p) for p in parts}) == 1
    length = len(parts) if isinstance(inner, ast.Tuple) and alike else None
    if one is None or (len(parts) > 1 and not alike and ast.unparse(parts[1]) != "..."):
        return SIMPLE["list"]
    what = f"a list of {length or ''} {one.removeprefix('a ')}s".replace("  ", " ").replace("texts", "names")
    return what, lambda v: isinstance(v, list) and length in (None, len(v)) and all(map(fits, v))


def _mapping(inner: ast.expr) -> Kind:
    one, fits = _kind(inner)
    if one is None:
        return SIMPLE["dict"]
    what = f"a mapping of names to {one.removeprefix('a ')}s"
    return what, lambda v: isinstance(v, dict) and all(map(fits, v.values()))


Find = Callable[[str, str], tuple[str, ast.AST | None]]


def of(module: str, node: ast.AST | None, find: Find) -> dict[str, Argument] | None:
    """What a function or class takes, None for anything; through base classes where they take the rest."""
    if isinstance(node, ast.ClassDef):
        init = _init(node)
        if init is None:
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
            if fields and node.decorator_list:  # a dataclass
                return {n.target.id: Argument(n.annotation, n.value is None) for n in fields}
            return _above(module, node, find)
        own = _own(init.args)
        if not init.args.kwarg:
            return own
        above = _above(module, node, find)
        return None if above is None else above | own
    if isinstance(node, ast.FunctionDef | ast.Lambda) and not node.args.kwarg:
        return _own(node.args)
    return None


def said(node: ast.AST | None) -> dict[str, Argument] | None:
    """What a class itself names, whatever else it passes on."""
    init = _init(node) if isinstance(node, ast.ClassDef) else None
    return None if init is None else _own(init.args)


def _init(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _above(module: str, node: ast.ClassDef, find: Find) -> dict[str, Argument] | None:
    for base in node.bases:
        if isinstance(base, ast.Name):
            home, above = find(module, base.id)
            if isinstance(above, ast.ClassDef) and code.module_path(home):
                return of(home, above, find)
    return None


def _own(given: ast.arguments) -> dict[str, Argument]:
    placed = [*given.posonlyargs, *given.args]
    bare = len(placed) - len(given.defaults)
    found = {a.arg: Argument(a.annotation, i < bare) for i, a in enumerate(placed)}
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    found |= {a.arg: Argument(a.annotation, default is None) for a, default in pairs}
    return {name: argument for name, argument in found.items() if name not in ("self", "cls")}
