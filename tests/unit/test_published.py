from __future__ import annotations

import copy
import re
import time
from pathlib import Path

import pytest
import yaml

from lt import published
from lt.errors import UserError

RAW = yaml.load(published.FILE.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def test_the_ledger_loads_quickly_and_every_number_has_a_source() -> None:
    started = time.process_time()
    ledger = published.load()
    assert time.process_time() - started < 0.5
    assert len(ledger.results) > 500 and ledger.differences and ledger.curves
    for entry in ledger.results:
        assert len(entry.source) > 10 and entry.selection in published.SELECTIONS
    assert all(len(d["source"]) > 10 for d in (*ledger.differences, *ledger.curves))


def test_factor_in_the_name_of_a_cifar_set_is_its_imb_factor() -> None:
    for entry in published.load().results:
        match = re.fullmatch(r"cifar\d+_lt_if(\d+)", entry.dataset)
        assert entry.imb_factor == (int(match[1]) if match else None), entry


def test_every_source_and_condition_is_used() -> None:
    used = {e["source"] for e in (*RAW["results"], *RAW["differences"], *RAW["curves"])}
    assert used == set(RAW["sources"])
    assert {e["conditions"] for e in RAW["results"]} == set(RAW["conditions"])


def test_group_means_lie_around_the_overall_accuracy() -> None:
    """Catches a swapped column: overall is a mixture of the three groups."""
    rows = [e["values"] for e in RAW["results"] if {"top1", "many", "medium", "few"} <= set(e["values"])]
    assert len(rows) > 30
    for v in rows:
        groups = (v["many"], v["medium"], v["few"])
        assert min(groups) - 0.1 <= v["top1"] <= max(groups) + 0.1, v


@pytest.mark.parametrize(
    ("dataset", "method", "arch", "metric", "value"),
    [
        ("cifar100_lt_if100", "mislas", "resnet32", "top1", 47.0),
        ("imagenet_lt", "ride3_bf", "resnet50", "few", 35.1),
        ("cifar100_lt_if100", "bagmar_pn", "resnet32", "top1", 52.3),
        ("cifar10_lt_if200", "ipdpp", "resnet18", "top1", 73.5),
        ("inat18", "livt_384", "vit_base", "top1", 81.0),
        ("places_lt", "balms", "resnet152", "top1", 38.3),
    ],
)
def test_first_entry_is_the_papers_headline(dataset: str, method: str, arch: str, metric: str, value: float) -> None:
    found = published.find(published.load().results, dataset=dataset, method=method, metric=metric)
    assert next(e.value for e in found if e.arch == arch) == value


BAD = [
    (lambda r: r["results"][3].pop("source"), r"results\[3\]\.source: missing"),
    (lambda r: r["results"][3].update(source="mislas_table"), "did you mean 'mislas_tables'"),
    (lambda r: r["results"][0].update(methd="x"), "unknown key 'methd'; did you mean 'method'"),
    (lambda r: r["results"][0]["values"].update(top_1=3.0), "unknown 'top_1'; did you mean 'top1'"),
    (lambda r: r["results"][0]["values"].update(top1=170), "expected a number from 0 to 100, got 170"),
    (lambda r: r["results"][0]["values"].update(top1="70"), "expected a number from 0 to 100, got '70'"),
    (lambda r: r["results"][0]["values"].update(top1=float("nan")), "got nan"),
    (lambda r: r["results"][0].update(epochs="200"), r"epochs: expected int, got '200'"),
    (lambda r: r["results"][0].update(values={}), "at least one metric"),
    (lambda r: r["results"][0].update(conditions="misl"), "unknown 'misl'; did you mean 'mislas'"),
    (lambda r: r["conditions"]["mislas"].update(selection="best"), "selection: unknown 'best'"),
    (lambda r: r["sources"].update(mislas_tables=" "), "expected the text of a source"),
    (lambda r: r["curves"][0]["values"].pop(), "8 epochs against 7 values"),
    (lambda r: r["differences"][0].pop("against"), r"differences\[0\]\.against: missing"),
    (lambda r: r["results"].append("x"), "expected keys and values, got str"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_a_bad_entry_is_one_clear_line(spoil: object, message: str) -> None:
    raw = copy.deepcopy(RAW)
    spoil(raw)
    with pytest.raises(UserError, match=message) as caught:
        published.parse(raw)
    assert "\n" not in str(caught.value) and "published.yaml" in str(caught.value)


def test_broken_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        published.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("results: [\n  - {a: 1\n")
    with pytest.raises(UserError, match=r"bad\.yaml: line \d+: not YAML"):
        published.load(tmp_path / "bad.yaml")
