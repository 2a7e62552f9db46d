"""`lt schema`: the JSON schema of params.yaml, for editors and for other tools; a test holds it in step."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lt.checks import DATASET_META, RECIPE_KEYS, SET_KEYS
from lt.schema import STAGES, Dataset, Params

FILE = Path("workflow/schemas/params.schema.json")
TEXT = {"type": "string"}
WHOLE = {"Named", "Table", "Grid", "Crossing", "Where"}  # everything else may be spread over layers


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=FILE, help=f"({FILE})")


def main(given: argparse.Namespace) -> None:
    from lt.artefact import write_text, writing

    with writing(given.out):
        write_text(given.out, text())
    print(given.out)


def text() -> str:
    return json.dumps(build(), indent=1, sort_keys=True) + "\n"


def build() -> dict[str, Any]:
    """The models' own schemas; layers are partial, so that in them nothing is required."""
    schema = Params.model_json_schema()
    defs = schema.setdefault("$defs", {})
    for name, model in {"dataset": Dataset, **STAGES}.items():
        own = model.model_json_schema()
        defs.update({k: v for k, v in own.pop("$defs", {}).items() if k not in defs})
        defs[f"layer_{name}"] = own
    for name in set(defs) - WHOLE:
        defs[name].pop("required", None)
    defs["layer_dataset"]["properties"].update(dict.fromkeys(DATASET_META, TEXT))
    for verb in STAGES:
        defs[f"layer_{verb}"]["properties"]["use"] = TEXT
    lists = {"type": "array", "items": {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}}
    defs["Table"]["properties"]["methods"] = lists  # groups of methods may be named once and repeated
    defs["stages"] = _map({"anyOf": [_ref(f"layer_{verb}") for verb in STAGES] + [{"type": "null"}]})
    defs["recipe"] = _recipe()
    layer = {"anyOf": [_ref("recipe"), {"type": "null"}]}
    defs["Crossing"]["properties"].update(recipe=_ref("recipe"), parts=_map(_map(layer)))
    some = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
    defs["Where"]["properties"].update(when=_map(some), then=_ref("recipe"))
    properties = schema["properties"]
    properties["datasets"] = _map(_ref("layer_dataset"))
    properties["recipes"] = _map(_ref("recipe"))
    properties["overlays"] = _map({"type": "object", "additionalProperties": False,
                                   "properties": {verb: _ref(f"layer_{verb}") for verb in STAGES}})  # fmt: skip
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return _by_name(schema)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _map(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


def _recipe() -> dict[str, Any]:
    """A recipe, its `sets` with their `archs`, and its `runs`: layers of the same few keys."""
    known: dict[str, Any] = {
        "stages": _ref("stages"),
        "verified": {"type": "boolean"},
        "undertrained": {"type": "boolean"},
        "arch": {"anyOf": [TEXT, {"type": "array", "items": TEXT}]},
        "published": {"anyOf": [TEXT, _map(TEXT)]},
    }

    def layer(keys: tuple[str, ...], **more: Any) -> dict[str, Any]:
        properties = {k: more.get(k, known.get(k, TEXT)) for k in keys}
        return {"type": "object", "additionalProperties": False, "properties": properties}

    inner = layer(SET_KEYS[1:6])
    sets = layer(SET_KEYS, archs=_map(inner))
    names = {"type": "array", "items": TEXT}
    return layer(RECIPE_KEYS, only=names, sets=_map(sets), runs=_map(inner))


def _by_name(node: Any) -> Any:
    """Where an entry of a registry stands, its name alone will do."""
    if isinstance(node, dict):
        if node.get("$ref") == _ref("Named")["$ref"]:
            rest = {k: v for k, v in node.items() if k != "$ref"}
            return {"anyOf": [TEXT, _ref("Named")], **rest}
        return {k: _by_name(v) for k, v in node.items()}
    return [_by_name(v) for v in node] if isinstance(node, list) else node
