"""Digests of the code that a stage runs: comments, docstrings and layout do not count.

The closure starts at the stage's script and follows its imports of `lt`, also those inside functions. Registry
packages are not followed whole: of them only the members that the recipe names are taken, so that editing one
paper's loss does not re-train another's network.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REGISTRIES = ("lt.losses", "lt.models", "lt.tasks", "lt.figures")


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


@functools.cache
def module_path(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """The modules of `lt` that a file imports, at any depth of nesting."""
    found: dict[str, None] = {}
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(a.name for a in node.names if a.name.split(".")[0] == "lt"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lt":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found[inner if module_path(inner) else node.module] = None
    return tuple(found)


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


@functools.cache
def closure(script: str, members: tuple[str, ...] = ()) -> tuple[Path, ...]:
    """All files behind a script, plus the registry members named."""
    todo, seen = [ROOT / script], {}
    todo += [p for m in members if (p := module_path(m))]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen[path] = None
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module in REGISTRIES:
            continue
        for name in imports(path):
            for each in [*_parents(name), name]:
                if found := module_path(each):
                    todo.append(found)
    return tuple(sorted(seen))


class _Strip(ast.NodeTransformer):
    """Drop docstrings; in a registry's own file drop what only lists its members."""

    def __init__(self, registry: bool) -> None:
        self.registry = registry

    def _body(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        body = node.body
        if body and isinstance(body[0], ast.Expr) and isinstance(getattr(body[0], "value", None), ast.Constant):
            if isinstance(body[0].value.value, str):
                node.body = body[1:] or [ast.Pass()]
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _body

    def visit_Module(self, node: ast.Module) -> ast.AST:
        if self.registry:
            lists = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
            node.body = [n for n in node.body if not isinstance(n, lists)]
        return self._body(node)


@functools.cache
def file_digest(path: Path) -> str:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    registry = module in REGISTRIES  # its imports go with its lists, so that it is read anew for its digest
    tree = _Strip(registry).visit(ast.parse(path.read_text(), filename=str(path)) if registry else _tree(path))
    return hashlib.sha256(ast.dump(tree, annotate_fields=False).encode()).hexdigest()


@functools.cache
def digest(script: str, members: tuple[str, ...] = ()) -> str:
    """One digest for the code that a stage runs."""
    total = hashlib.sha256()
    for path in closure(script, members):
        total.update(f"{path.relative_to(ROOT)} {file_digest(path)}\n".encode())
    return total.hexdigest()[:16]
