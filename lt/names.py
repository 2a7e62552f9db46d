"""Names in params.yaml: which are usable, since they become paths, and which stand for two things."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lt import code

if TYPE_CHECKING:
    from lt.config import Config

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
RESERVED = ("tables", "figures", "report", "metrics", "recipes", "pack", "params")


def unusable(name: str, reserved: tuple[str, ...] = RESERVED) -> str | None:
    if NAME.fullmatch(name) and name not in reserved:
        return None
    return "not a usable name (lower case, digits, _" + (f"; reserved: {', '.join(reserved)})" if reserved else ")")


def problems(config: Config, written: Iterable[str]) -> Iterator[str]:
    """`written`: the recipes that stand in the file, without the crossings' cells."""
    params = config.params
    for section in ("tables", "overlays", "crossings"):
        for name in getattr(params, section):
            if line := unusable(name, ()):
                yield f"{section}.{name}: {line}"
    for name, crossing in params.crossings.items():
        for axis, parts in crossing.parts.items():
            for part in (axis, *parts):
                if line := unusable(part, ()):
                    yield f"crossings.{name}.parts.{axis if part == axis else f'{axis}.{part}'}: {line}"
    yield from _overlaid(config)
    yield from _cells(config, set(written))


def _overlaid(config: Config) -> Iterator[str]:
    """`digits_smoke` already stands for `digits` under the overlay `smoke`."""
    for section in ("datasets", "tables"):
        known = getattr(config.params, section)
        for overlay in config.params.overlays:
            for name in known:
                if name.endswith(f"_{overlay}") and (base := name.removesuffix(f"_{overlay}")) in known:
                    yield f"{section}.{name}: stands for '{base}' under the overlay '{overlay}' already; rename it"


def _cells(config: Config, written: set[str]) -> Iterator[str]:
    for name, cells in config.cells.parts.items():
        for clash in sorted(written & {name, *cells}):
            what = "the crossing" if clash == name else f"a cell of the crossing '{name}'"
            yield f"recipes.{clash}: {what} has this name already; rename one of them"
    count = Counter(config.cells.names)
    for cell in (cell for cell, times in count.items() if times > 1):
        yield f"crossings: {count[cell]} cells are named '{cell}'; rename a part"


def papers(file: str) -> set[str]:
    """The graphs that workflow/rules draws, beside params.yaml or beside this package: `of_paper("btm")`."""
    found: set[str] = set()
    for root in {Path(file).resolve().parent, code.ROOT}:
        for rules in sorted((root / "workflow" / "rules").glob("*.smk")):
            for listed in re.findall(r"of_paper\(([^)*]*)\)", rules.read_text(encoding="utf-8")):
                found.update(re.findall(r"\"(\w+)\"", listed))
    return found
