"""YAML as written: what stands twice, what is no YAML at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lt import documents, published
from lt.config import load
from lt.errors import UserError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a: written twice, first in line 1"),
        ("r:\n  ce: {lr: 1,\n    lr: 2}\n", "f.yaml:3: r.ce.lr: written twice, first in line 2"),
        ("r:\n- {x: {k: 1, k: 1}}\n", "f.yaml:2: r.0.x.k: written twice, first in line 2"),
        ("a: &x {k: 1}\nb: {<<: *x, <<: *x}\n", "f.yaml:2: b.<<: written twice, first in line 2"),
        ("a: &x\n  b: *x\n", "f.yaml:1: a.b: holds itself (an alias inside its own anchor)"),
        ("a: [1", "f.yaml:2: not YAML: did not find expected ',' or ']'"),
        ("a: b: c", "f.yaml:1: not YAML: mapping values are not allowed in this context"),
        ("? [a]\n: 1\n", "f.yaml:1: not YAML: found unhashable key"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2: not YAML: but found another document"),
        ("a: 2020-13-45", "f.yaml: not YAML: month must be in 1..12"),
        ("a: !!python/object:os.system {}", "f.yaml:1: not YAML: could not determine a constructor"),
        ("a: \0", "f.yaml: not YAML: "),
    ],
)
def test_one_line_a_mistake(text: str, wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        documents.parse(text, file="f.yaml")
    assert str(caught.value).startswith(wanted) and len(str(caught.value).splitlines()) == 1


def test_a_merged_key_may_be_written_again() -> None:
    text = "a: &x {k: 1, l: 2}\nb: &y {<<: *x, k: 3}\nc: {<<: *y, k: 4}\nd: {<<: [*x, *y], l: 5}\ne: [*x, *x]\n"
    found = documents.parse(text, file="f.yaml")
    assert found["c"] == {"k": 4, "l": 2} and found["d"]["l"] == 5 and found["e"] == [{"k": 1, "l": 2}] * 2
    assert documents.parse("", file="f.yaml") is None and documents.parse("1: a\n'1': b\n", file="f") == {
        1: "a",
        "1": "b",
    }


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(UserError, match=r"params\.yaml:2: not UTF-8; save it as UTF-8$"):
        load(file)
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)$"):
        load(tmp_path)
    file.write_text("seeds: [0]\nseeds: [1]\n")
    with pytest.raises(UserError, match=r"params\.yaml:2: seeds: written twice, first in line 1$"):
        load(file)


def test_the_ledger_names_nothing_twice() -> None:
    assert documents.read(published.FILE)["results"]
