"""Official list files: one `relative/path label` a line, labels from 0 (numpy only)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from lt.data.class_map import counts_of
from lt.errors import UserError, nearest

FACTS = Path(__file__).with_name("facts")
BOM = b"\xef\xbb\xbf"

# Names of the official files by part. iNaturalist's validation list is the published test set.
OFFICIAL: dict[str, dict[str, str]] = {
    "imagenet_lt": {
        "train": "ImageNet_LT_train.txt",
        "val": "ImageNet_LT_val.txt",
        "test": "ImageNet_LT_test.txt",
    },
    "places_lt": {"train": "Places_LT_train.txt", "val": "Places_LT_val.txt", "test": "Places_LT_test.txt"},
    "inat18": {"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
}
BALANCED: dict[str, dict[str, int]] = {  # images of every class in the lists that are not long-tailed
    "imagenet_lt": {"val": 20, "test": 50},
    "places_lt": {"val": 20, "test": 100},
    "inat18": {"test": 3},
}


@dataclass(frozen=True)
class ImageList:
    """`paths` are relative, after prefix mapping. `digest` is of the list's own text with LF line ends."""

    file: Path
    paths: list[str]
    labels: np.ndarray
    digest: str


def read_list(path: Path | str, *, prefix: Mapping[str, str] | None = None) -> ImageList:
    """Read one list. `prefix` maps leading folders, longest first: {"data_256_standard": "data_256"}."""
    path = Path(path)
    raw = _bytes(path)
    text, digest = _text(path, raw), hashlib.sha256(raw).hexdigest()
    paths, labels = _columns(raw, text) or _rows(path, text)
    if prefix:
        paths = map_prefixes(paths, prefix)
        text = "\n".join(paths)
    if any(sign in text for sign in ("\n/", "..", "\\", ":", "\0", "~")) or text.startswith("/"):
        _refuse_unsafe(path, paths)
    return ImageList(path, paths, labels, digest)


def file_digest(path: Path | str) -> str:
    """The digest that `read_list` gives, without reading the list."""
    return hashlib.sha256(_bytes(Path(path))).hexdigest()


def _columns(raw: bytes, text: str) -> tuple[list[str], np.ndarray] | None:
    """The official form by columns: plain text, one space a line, at most 9 digits after it; else None."""
    data = np.frombuffer(raw.rstrip(b"\n") + b"\n", dtype=np.uint8)
    ends, spaces = np.flatnonzero(data == 10), np.flatnonzero(data == 32)
    if not text.isascii() or np.count_nonzero(data < 33) != 2 * len(ends) or len(ends) != len(spaces):
        return None
    starts, width = np.append(0, ends[:-1] + 1), ends - spaces - 1
    if (spaces <= starts).any() or width.min() < 1 or width.max() > 9:
        return None
    labels = np.zeros(len(ends), dtype=np.int64)
    for place in range(int(width.max())):
        there = width > place
        digit = data[spaces[there] + 1 + place].astype(np.int64) - 48
        if ((digit < 0) | (digit > 9)).any():
            return None
        labels[there] = labels[there] * 10 + digit
    return text.split()[::2], labels


def _rows(path: Path, text: str) -> tuple[list[str], np.ndarray]:
    """Any form with the label last (tabs, spaces in names), or the message that names the bad line."""
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path}: empty list")
    paths, labels = [], []
    for number, line in enumerate(lines):
        row = line.rsplit(None, 1)
        if len(row) != 2:
            raise _bad(path, number, line, "expected 'relative/path label'")
        if not (row[1].isascii() and row[1].isdecimal() and len(row[1]) < 10):
            raise _bad(path, number, line, f"label '{row[1]}' is not a whole number from 0")
        paths.append(row[0])
        labels.append(int(row[1]))
    return paths, np.array(labels, dtype=np.int64)


def _bytes(path: Path) -> bytes:
    """The list without BOM and with LF line ends."""
    if path.name.endswith("_open.txt"):
        raise UserError(f"{path}: an open-set list, not used here; take the list without '_open'")
    try:
        return _plain(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the list ({error.strerror})") from None


def _text(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start)
        raise UserError(f"{path}:{number + 1}: not UTF-8 text") from None


def _plain(raw: bytes) -> bytes:
    return raw.removeprefix(BOM).replace(b"\r\n", b"\n")


def _bad(path: Path, number: int, line: str, why: str) -> UserError:
    shown = line if len(line) <= 80 else line[:77] + "..."
    return UserError(f"{path}:{number + 1}: {why}, found {shown!r}")


def map_prefixes(paths: list[str], prefix: Mapping[str, str]) -> list[str]:
    """Replace the longest matching leading folders; "" matches every path that no other entry matches."""
    rules = [
        (old.strip("/") + "/" if old.strip("/") else "", new.rstrip("/") + "/" if new.rstrip("/") else "")
        for old, new in sorted(prefix.items(), key=lambda rule: -len(rule[0]))
    ]

    def mapped(path: str) -> str:
        for old, new in rules:
            if path.startswith(old):
                return new + path[len(old) :]
        return path

    return [mapped(path) for path in paths]


def _refuse_unsafe(file: Path, paths: list[str]) -> None:
    """No absolute path, no `..`: a list must not reach outside the image root."""
    for number, path in enumerate(paths):
        drive = len(path) > 1 and path[1] == ":"
        if path.startswith(("/", "~")) or drive or "\\" in path or "\0" in path:
            raise _bad(file, number, path, "expected a path relative to the image root, with '/'")
        if ".." in PurePosixPath(path).parts:
            raise _bad(file, number, path, "'..' may not stand in a path")


def write_list(path: Path | str, paths: list[str], labels: np.ndarray) -> None:
    """The same form as the official files: one space, LF."""
    rows = [f"{name} {label}\n" for name, label in zip(paths, np.asarray(labels).tolist(), strict=True)]
    Path(path).write_text("".join(rows), encoding="utf-8", newline="\n")


def find_list(folders: list[Path], name: str) -> Path:
    """`name` in the first folder that has it."""
    for folder in folders:
        if (path := folder / name).is_file():
            return path
    names = {file.name for folder in folders if folder.is_dir() for file in folder.glob("*.txt")}
    known = sorted(n for n in names if not n.endswith("_open.txt"))
    where = " or ".join(str(folder) for folder in folders)
    raise UserError(f"{name}: list not found; put it in {where}{nearest(name, known[:20])}")


@cache
def known_counts() -> dict[str, list[int]]:
    """Training images per class of the official sets, in original label order."""
    return json.loads((FACTS / "class_counts.json").read_text())


@cache
def known_files() -> list[dict[str, object]]:
    """Digest, size and line count of every published list file."""
    return json.loads((FACTS / "lists.json").read_text())


def expected_counts(family: str, part: str) -> np.ndarray | None:
    """Class counts of an official list, None where nothing is known."""
    if family not in known_counts():
        return None
    train = np.array(known_counts()[family], dtype=np.int64)
    if part == "train":
        return train
    each = BALANCED[family].get(part)
    return None if each is None else np.full(len(train), each, dtype=np.int64)


@dataclass(frozen=True)
class Verdict:
    """`kind`: official | same counts | wrong | unknown (nothing is known about this family and part)."""

    kind: str
    message: str


def verify(path: Path | str, *, family: str, part: str) -> Verdict:
    """Compare a list with the published one: by its bytes first, then by its class counts."""
    path = Path(path)
    listed = read_list(path)
    if (known := _known(path, family, part)) is not None:
        return Verdict("official", f"{path}: official ({known['source']}, {known['lines']} lines)")
    want = expected_counts(family, part)
    if want is None:
        return Verdict("unknown", f"{path}: no facts about {family} {part}{nearest(family, known_counts())}")
    if listed.labels.max() >= len(want):
        line, label = int(listed.labels.argmax()) + 1, listed.labels.max()
        return Verdict("wrong", f"{path}:{line}: wrong: label {label}, expected 0..{len(want) - 1}")
    have = counts_of(listed.labels, len(want))
    if twice := len(listed.paths) - len(set(listed.paths)):
        return Verdict("wrong", f"{path}: wrong: {twice} paths stand twice")
    if (have == want).all():
        return Verdict("same counts", f"{path}: same counts as the official list, other lines or order")
    differ = np.flatnonzero(have != want)
    shown = ", ".join(f"class {c} has {have[c]}, expected {want[c]}" for c in differ[:3])
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    return Verdict("wrong", f"{path}: wrong: {shown}{more}")


def _known(path: Path, family: str, part: str) -> dict[str, object] | None:
    """The published file with these bytes, line ends and BOM aside."""
    raw = path.read_bytes()
    plain = _plain(raw)
    forms = {raw, plain, plain.replace(b"\n", b"\r\n")}
    sha256 = {hashlib.sha256(form).hexdigest() for form in forms}
    blobs = {hashlib.sha1(b"blob %d\0" % len(form) + form).hexdigest() for form in forms}
    for known in known_files():
        same = known["sha256"] in sha256 or known["git_blob"] in blobs
        if same and known["family"] == family and known["part"] == part:
            return known
    return None


def missing_files(root: Path | str, paths: list[str]) -> list[str]:
    """Listed paths that are not under `root`, in list order; one directory scan per folder."""
    folders: dict[str, set[str]] = {}

    def names(folder: str) -> set[str]:
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                return {entry.name for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    missing = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = names(folder)
        if name not in folders[folder]:
            missing.append(path)
    return missing
