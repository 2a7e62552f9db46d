from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.data import lists
from lt.data.rehearse import listed, write_images
from lt.errors import UserError

WORD = st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=8).filter(lambda w: ".." not in w)
NAME = st.lists(WORD.filter(lambda w: w != "."), min_size=1, max_size=3).map("/".join)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAME, st.integers(0, 9999)), min_size=1, max_size=30), st.booleans(), st.booleans())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list, crlf: bool, bom: bool) -> None:
    file = tmp_path_factory.mktemp("list") / "a.txt"
    paths, labels = [row[0] for row in rows], np.array([row[1] for row in rows])
    lists.write_list(file, paths, labels)
    plain = lists.read_list(file)
    raw = file.read_bytes()
    file.write_bytes((lists.BOM if bom else b"") + (raw.replace(b"\n", b"\r\n") if crlf else raw))
    again = lists.read_list(file)
    assert plain.paths == again.paths == paths
    assert plain.labels.tolist() == again.labels.tolist() == labels.tolist()
    assert plain.digest == again.digest


def test_both_readers_agree(tmp_path: Path) -> None:
    paths, labels = listed("imagenet_lt", "train", [3, 2, 12])
    lists.write_list(tmp_path / "a.txt", paths, labels)
    raw = (tmp_path / "a.txt").read_bytes()
    fast, slow = lists._columns(raw, raw.decode()), lists._rows(tmp_path / "a.txt", raw.decode())
    assert fast is not None and fast[0] == slow[0] == paths
    assert fast[1].tolist() == slow[1].tolist() == labels.tolist()


def test_other_forms(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a b/c d.jpg 3\nx\ty.jpg\t0\nü.jpg  12\nlast.jpg 1\n\n", encoding="utf-8")
    content = lists.read_list(file)
    assert content.paths == ["a b/c d.jpg", "x\ty.jpg", "ü.jpg", "last.jpg"]
    assert content.labels.tolist() == [3, 0, 12, 1]
    file.write_text("no/newline.jpg 7")
    assert lists.read_list(file).labels.tolist() == [7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 0\nb.jpg\n", "a.txt:2: expected 'relative/path label'"),
        ("a.jpg 0\n\nb.jpg 1\n", "a.txt:2: expected"),
        ("a.jpg 0\n 5\n", "a.txt:2: expected"),
        ("a\tb 3\n 5\n", "a.txt:2: expected"),
        ("a.jpg 0\nb.jpg -1\n", "a.txt:2: label '-1'"),
        ("a.jpg 0\nb.jpg 1.0\n", "a.txt:2: label '1.0'"),
        ("a.jpg 1_0\n", "a.txt:1: label '1_0'"),
        ("a.jpg ٣\n", "a.txt:1: label"),
        ("a.jpg 12345678901\n", "a.txt:1: label"),
        ("a.jpg 0\n/etc/passwd 1\n", "a.txt:2: expected a path relative"),
        ("/etc/passwd 1\n", "a.txt:1: expected a path relative"),
        ("~/x.jpg 1\n", "a.txt:1: expected a path relative"),
        ("a.jpg 0\nC:/x.jpg 1\n", "a.txt:2: expected a path relative"),
        ("a.jpg 0\na\\b.jpg 1\n", "a.txt:2: expected a path relative"),
        ("a/../../b.jpg 0\n", "a.txt:1: '..' may not stand"),
        ("a.jpg 0\n.. 0\n", "a.txt:2: '..' may not stand"),
        ("", "empty list"),
        ("\n\n", "empty list"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        lists.read_list(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_dots_inside_names_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a..b/c...jpg 0\n")
    assert lists.read_list(tmp_path / "a.txt").paths == ["a..b/c...jpg"]


def test_not_text_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a.jpg 0\n\xff\xfe.jpg 1\n")
    with pytest.raises(UserError, match=r"a\.txt:2: not UTF-8"):
        lists.read_list(tmp_path / "a.txt")
    with pytest.raises(UserError, match="cannot read"):
        lists.read_list(tmp_path / "b.txt")


def test_open_lists_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "ImageNet_LT_open.txt").write_text("a.jpg 0\n")
    with pytest.raises(UserError, match="open-set"):
        lists.read_list(tmp_path / "ImageNet_LT_open.txt")
    with pytest.raises(UserError) as caught:
        lists.find_list([tmp_path], "ImageNet_LT_train.txt")
    assert "LT_open" not in str(caught.value)


def test_find_list(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "x.txt").touch()
    assert lists.find_list([tmp_path, tmp_path / "lists"], "x.txt") == tmp_path / "lists" / "x.txt"
    with pytest.raises(UserError, match=r"did you mean 'x\.txt'"):
        lists.find_list([tmp_path, tmp_path / "lists"], "xx.txt")


def test_prefixes(tmp_path: Path) -> None:
    rules = {"data_256_standard": "data_256", "data_256_standard/b": "other", "val_256/": "val"}
    paths = [
        "data_256_standard/a/1.jpg",
        "data_256_standard/b/2.jpg",
        "data_256_standardx/3.jpg",
        "val_256/4.jpg",
    ]
    wanted = ["data_256/a/1.jpg", "other/2.jpg", "data_256_standardx/3.jpg", "val/4.jpg"]
    assert lists.map_prefixes(paths, rules) == wanted
    assert lists.map_prefixes(["a/b"], {"": "images"}) == ["images/a/b"]
    assert lists.map_prefixes(["a/b"], {"a": ""}) == ["b"]
    file = tmp_path / "a.txt"
    lists.write_list(file, paths, np.arange(4))
    assert lists.read_list(file, prefix=rules).paths == wanted
    assert lists.read_list(file, prefix=rules).digest == lists.read_list(file).digest
    with pytest.raises(UserError, match="may not stand"):
        lists.read_list(file, prefix={"val_256": "../up"})


def test_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = lists.expected_counts("places_lt", "train")
    paths, labels = listed("places_lt", "train", counts)
    file = tmp_path / "Places_LT_train.txt"
    lists.write_list(file, paths, labels)
    assert lists.verify(file, family="places_lt", part="train").kind == "same counts"

    import hashlib

    known = dict(lists.known_files()[0], family="places_lt", part="train")
    known["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(lists, "known_files", lambda: [known])
    assert lists.verify(file, family="places_lt", part="train").kind == "official"
    file.write_bytes(lists.BOM + file.read_bytes().replace(b"\n", b"\r\n"))
    assert lists.verify(file, family="places_lt", part="train").kind == "official"

    raw = file.read_bytes().removeprefix(lists.BOM)
    known.update(sha256=None, git_blob=hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest())
    assert lists.verify(file, family="places_lt", part="train").kind == "official"
    assert lists.verify(file, family="places_lt", part="test").kind == "wrong"

    lists.write_list(file, paths[1:], labels[1:])
    verdict = lists.verify(file, family="places_lt", part="train")
    assert verdict.kind == "wrong" and f"class 0 has {counts[0] - 1}, expected {counts[0]}" in verdict.message
    lists.write_list(file, paths[:1] + paths[:-1], labels)
    assert "stand twice" in lists.verify(file, family="places_lt", part="train").message
    lists.write_list(file, paths, np.append(labels[:-1], 365))
    assert "label 365, expected 0..364" in lists.verify(file, family="places_lt", part="train").message
    assert lists.verify(file, family="birds", part="train").kind == "unknown"


def test_facts_are_whole() -> None:
    assert set(lists.known_counts()) == set(lists.OFFICIAL)
    names = {(f["family"], f["part"], f["name"]) for f in lists.known_files()}
    for family, parts in lists.OFFICIAL.items():
        for part, name in parts.items():
            assert (family, part, name) in names
    for file in ("class_counts.json", "lists.json"):
        json.loads((lists.FACTS / file).read_text())


def test_missing_files(tmp_path: Path) -> None:
    paths, labels = listed("inat18", "train", [3, 2])
    write_images(tmp_path, paths, labels, pixels="empty", size=8)
    assert lists.missing_files(tmp_path, paths) == []
    (tmp_path / paths[2]).unlink()
    assert lists.missing_files(tmp_path, [*paths, "no/folder.jpg", "top.jpg"]) == [
        paths[2],
        "no/folder.jpg",
        "top.jpg",
    ]
    assert lists.missing_files(tmp_path, [paths[0].rpartition("/")[0]]) == [paths[0].rpartition("/")[0]]
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert lists.missing_files(tmp_path, ["dangling.jpg"]) == ["dangling.jpg"]
