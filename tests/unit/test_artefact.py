"""Artefacts: whole or not at all; what was changed, forged or damaged is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from lt import artefact
from lt.errors import UserError


def make(out: Path, text: str = "x", inputs: dict | None = None) -> artefact.Artefact:
    with artefact.commit(out / "manifest.json", recipe={"stage": "s"}, inputs=inputs or {}) as draft:
        (draft / "deep").mkdir()
        (draft / "deep" / "a.txt").write_text(text)
        draft.extra = {"seed": 3}
    return artefact.read(out)


def test_equal_work_gives_an_equal_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = make(Path("a"))
    raw = (Path("a") / "manifest.json").read_bytes()
    assert make(Path("a")).digest == first.digest and (Path("a") / "manifest.json").read_bytes() == raw
    assert make(Path("a"), "y").digest != first.digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    old = make(tmp_path / "a")
    with pytest.raises(RuntimeError), artefact.commit(tmp_path / "a", recipe={}, inputs={}) as draft:
        (draft / "b.txt").write_text("half")
        raise RuntimeError
    assert artefact.read(tmp_path / "a").digest == old.digest
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left"), artefact.commit(tmp_path / "a", recipe={}, inputs={}):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_parents_are_named_by_digest(tmp_path: Path) -> None:
    parent = make(tmp_path / "a")
    child = make(tmp_path / "b", inputs={"init": parent, "data": "0" * 64})
    assert child.manifest["inputs"] == {"init": parent.digest, "data": "0" * 64}
    assert child.manifest["parents"] == {"init": str(tmp_path / "a")}


def test_missing_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no finished artefact; run again: snakemake --cores all .*manifest\.json"):
        artefact.read(tmp_path / "nothing")


@pytest.mark.parametrize("harm", ["append", "flip", "delete"])
def test_changed_files(tmp_path: Path, harm: str) -> None:
    make(tmp_path / "a", "hello")
    file = tmp_path / "a" / "deep" / "a.txt"
    if harm == "append":
        file.write_text("hello!")
    elif harm == "flip":
        file.write_text("hellp")
    else:
        file.unlink()
    with pytest.raises(UserError, match="missing" if harm == "delete" else "changed since it was written"):
        artefact.read(tmp_path / "a")
    assert artefact.read(tmp_path / "a", verify=False).digest


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"x"', "{}", '{"outputs": {}}', "\x00\x01", '{"stage": "s"}']
)
def test_hostile_manifests(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="not a manifest"):
        artefact.read(tmp_path)


def test_a_pickle_in_place_of_weights_is_never_run(tmp_path: Path) -> None:
    import os
    import pickle

    from lt.stages.common import open_model

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    with artefact.commit(tmp_path / "a", recipe={"stage": "s"}, inputs={}) as draft:
        (draft / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Exception):  # noqa: B017  (whatever the reader of safetensors says)
        open_model(tmp_path / "a")
    assert not (tmp_path / "owned").exists()


def test_a_reader_sees_the_old_text_or_the_new(tmp_path: Path) -> None:
    artefact.write_text(tmp_path / "x" / "a.txt", "one")
    artefact.write_text(tmp_path / "x" / "a.txt", "two")
    assert (tmp_path / "x" / "a.txt").read_text() == "two" and len(list((tmp_path / "x").iterdir())) == 1
    assert json.loads(artefact.dump({"b": 1, "a": 2})) == {"a": 2, "b": 1}
    with pytest.raises(ValueError):
        artefact.dump({"a": float("nan")})
