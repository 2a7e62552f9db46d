"""The JSON schema that is checked in is the one that the models say."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from lt.commands import schema

ROOT = Path(__file__).resolve().parents[2]
jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(json.loads((ROOT / schema.FILE).read_text()))


@pytest.fixture(scope="module")
def raw() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def test_in_step() -> None:
    assert (ROOT / schema.FILE).read_text() == schema.text(), "type: lt schema"


def test_the_projects_parameters_fit(validator, raw: dict) -> None:
    validator.check_schema(validator.schema)
    assert [error.message for error in validator.iter_errors(raw)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", [0]),
        ("seeds", ["0"]),
        ("datasets.digits.num_class", 10),
        ("datasets.digits.num_classes", "ten"),
        ("recipes.ce.stages.train.epoch", 3),
        ("recipes.ce.stages.train.lr", "1e-4"),
        ("recipes.ce.sets.digits.architecture", "resnet8"),
        ("tables.digits.method", ["ce"]),
        ("overlays.smoke.train.stepz", 2),
    ],
)
def test_what_it_refuses(validator, raw: dict, path: str, value: object) -> None:
    wrong = copy.deepcopy(raw)
    *inner, last = path.split(".")
    place = wrong
    for key in inner:
        place = place[key]
    place[last] = value
    assert list(validator.iter_errors(wrong))
