"""YAML files as written: a key that stands twice in one mapping is a mistake, not an override."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lt.errors import UserError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: str | Path) -> Any:
    """What a file holds; one line with its place if that is not YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's root") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8; save it as UTF-8") from None
    return parse(text, file=str(path))


def parse(text: str, *, file: str) -> Any:
    """The same of a text."""
    loader = None
    try:
        loader = LOADER(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _look(root, "", file=file, seen=set(), above=())
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{file}{where}: not YAML: {problem}") from None
    except ValueError as error:  # a date or number of its own form that is none: 2020-13-45
        raise UserError(f"{file}: not YAML: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _look(node: yaml.Node, place: str, *, file: str, seen: set[int], above: tuple[int, ...]) -> None:
    """Refuse a key written twice; what `<<` brings in is no key of this mapping. Each anchor is looked at once."""
    if id(node) in above:
        raise UserError(f"{file}:{node.start_mark.line + 1}: {place}: holds itself (an alias inside its own anchor)")
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    inside, first = {"file": file, "seen": seen, "above": (*above, id(node))}, {}
    if isinstance(node, yaml.SequenceNode):
        for at, entry in enumerate(node.value):
            _look(entry, f"{place}.{at}", **inside)
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue  # a list as a key: refused where it is made a dict
        inner, line = f"{place}.{key.value}".lstrip("."), key.start_mark.line + 1
        if (before := first.get((key.tag, key.value))) is not None:
            raise UserError(f"{file}:{line}: {inner}: written twice, first in line {before}")
        first[key.tag, key.value] = line
        _look(value, inner, **inside)
