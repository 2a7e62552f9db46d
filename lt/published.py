"""The ledger of published numbers: read `published.yaml`, refuse what has no source."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lt.errors import UserError, nearest

FILE = Path(__file__).with_name("published.yaml")
METRICS = ("top1", "top5", "mean", "f1", "many", "medium", "few", "hm", "gm", "zero_classes", "worst")
METRICS += ("ece", "mce", "pdc", "hours", "minutes_per_epoch", "params_m")
PERCENT = frozenset(METRICS[:9]) | {"worst", "ece", "mce"}
SPLITS = ("test", "val", "unknown")
SELECTIONS = ("last", "best_on_test", "best_on_val", "unknown")

_IDENTITY = {"dataset": str, "method": str}
_RESULT = _IDENTITY | {"arch": str, "values": dict, "source": str, "conditions": str}
_RESULT_OPTIONAL = {"imb_factor": int, "epochs": int, "resolution": int, "tau": float, "note": str}
_DIFFERENCE = _IDENTITY | {"against": str, "values": dict, "source": str}
_CURVE = _IDENTITY | {"stage": str, "resolution": int, "metric": str, "epochs": list, "values": list}
_CURVE |= {"source": str}
_CONDITIONS = {"split": str, "selection": str}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published number and the conditions under which it was made."""

    dataset: str
    method: str
    arch: str
    metric: str
    value: float
    source: str
    split: str = "unknown"
    selection: str = "unknown"
    imb_factor: int | None = None
    epochs: int | None = None
    resolution: int | None = None
    tau: float | None = None
    external_data: str | None = None
    shots: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Ledger:
    results: list[Entry]
    differences: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)


def load(path: str | Path = FILE) -> Ledger:
    """The checked ledger; a bad entry is one line that names file, entry and key."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {where}not YAML ({getattr(error, 'problem', error)})") from None
    return parse(raw, file=path.name)


def parse(raw: object, *, file: str = "published.yaml") -> Ledger:
    """Check what was read from YAML and resolve the names of sources and conditions."""
    top = {"sources": dict, "conditions": dict, "results": list}
    raw = _keys(raw, top, {"differences": list, "curves": list}, file)
    sources, conditions = raw["sources"], raw["conditions"]
    for name, text in sources.items():
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{file}: sources.{name}: expected the text of a source, got {text!r}")
    for name, body in conditions.items():
        where = f"{file}: conditions.{name}"
        _keys(body, _CONDITIONS, {"external_data": str, "shots": str}, where)
        _one_of(body["split"], SPLITS, f"{where}.split")
        _one_of(body["selection"], SELECTIONS, f"{where}.selection")
    results: list[Entry] = []
    for index, body in enumerate(raw["results"]):
        results += _result(body, sources, conditions, f"{file}: results[{index}]")
    differences = raw.get("differences") or []
    for index, body in enumerate(differences):
        where = f"{file}: differences[{index}]"
        _keys(body, _DIFFERENCE, {"note": str}, where)
        _one_of(body["source"], sources, f"{where}.source")
        _values(body["values"], where, low=-100)
    curves = raw.get("curves") or []
    for index, body in enumerate(curves):
        _curve(body, sources, f"{file}: curves[{index}]")
    return Ledger(results, [_sourced(d, sources) for d in differences], [_sourced(c, sources) for c in curves])


def _sourced(body: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    return body | {"source": sources[body["source"]]}


def _result(body: object, sources: dict, conditions: dict, where: str) -> list[Entry]:
    body = _keys(body, _RESULT, _RESULT_OPTIONAL, where)
    where = f"{where} ({body['dataset']} {body['method']})"
    _one_of(body["source"], sources, f"{where}.source")
    _one_of(body["conditions"], conditions, f"{where}.conditions")
    _values(body["values"], where, low=0)
    shared = {key: body[key] for key in body if key not in ("values", "source", "conditions")}
    shared |= conditions[body["conditions"]] | {"source": sources[body["source"]]}
    return [Entry(metric=name, value=float(value), **shared) for name, value in body["values"].items()]


def _values(values: dict, where: str, *, low: float) -> None:
    if not values:
        raise UserError(f"{where}.values: expected at least one metric, got none")
    for name, value in values.items():
        _one_of(name, METRICS, f"{where}.values")
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (name in PERCENT and not low <= value <= 100):
            wanted = f"a number from {low} to 100" if name in PERCENT else "a number"
            raise UserError(f"{where}.values.{name}: expected {wanted}, got {value!r}")


def _curve(body: object, sources: dict, where: str) -> None:
    body = _keys(body, _CURVE, {"note": str}, where)
    _one_of(body["source"], sources, f"{where}.source")
    if len(body["epochs"]) != len(body["values"]):
        raise UserError(f"{where}: {len(body['epochs'])} epochs against {len(body['values'])} values")


def _keys(body: object, required: dict[str, type], optional: dict[str, type], where: str) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise UserError(f"{where}: expected keys and values, got {type(body).__name__}")
    known = required | optional
    for key in required:
        if body.get(key) in (None, ""):
            raise UserError(f"{where}.{key}: missing; every entry has {', '.join(required)}")
    for key, value in body.items():
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'{nearest(str(key), known)}")
        accepted = (int, float) if known[key] is float else known[key]
        if value is not None and (not isinstance(value, accepted) or isinstance(value, bool)):
            raise UserError(f"{where}.{key}: expected {known[key].__name__}, got {value!r}")
    return body


def _one_of(word: str, known: object, where: str) -> None:
    if word not in known:
        raise UserError(f"{where}: unknown '{word}'{nearest(word, known)}")


def find(
    entries: list[Entry],
    *,
    dataset: str,
    method: str,
    metric: str | None = None,
    imb_factor: float | None = None,
) -> list[Entry]:
    """Entries of that data set and method, in the ledger's order (a paper's own table first)."""
    return [
        e
        for e in entries
        if (e.dataset, e.method) == (dataset, method)
        and metric in (None, e.metric)
        and (imb_factor is None or e.imb_factor is None or e.imb_factor == imb_factor)
    ]
