"""CIFAR's published python files, read without running anything that they contain."""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from lt.errors import UserError

# kind -> folder, training files, test file, label key, file and key of the class names, number of classes
LAYOUT: dict[str, tuple[str, tuple[str, ...], str, str, tuple[str, str], int]] = {
    "cifar10": (
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "labels",
        ("batches.meta", "label_names"),
        10,
    ),
    "cifar100": ("cifar-100-python", ("train",), "test", "fine_labels", ("meta", "fine_label_names"), 100),
}


# what a truncated or foreign pickle raises
DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes; no other codec is let through."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {encoding}")
    return codecs.encode(text, "latin1")


def _allowed() -> dict[tuple[str, str], Any]:
    from numpy._core.multiarray import _reconstruct

    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed[core, "_reconstruct"] = _reconstruct
    return allowed


class _Reader(pickle.Unpickler):
    """Arrays, bytes, text, numbers, lists and dicts; any other name in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _allowed()
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return allowed[module, name]


def read_pickle(file: Path) -> dict[str, Any]:
    """The dictionary in one published file, keys as text."""
    try:
        content = _Reader(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise UserError(f"{file}: cannot read ({error.strerror})") from None
    except DAMAGE as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: not one of CIFAR's python files ({why})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a dictionary, found {type(content).__name__}")
    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in content.items()}


def folder(root: Path, kind: str) -> Path:
    name = LAYOUT[kind][0]
    for candidate in (root / name, root):
        if (candidate / LAYOUT[kind][2]).is_file():
            return candidate
    raise UserError(f"{root}: no {name}/ with {LAYOUT[kind][2]} in it (the python version of {kind})")


def read(root: Path, kind: str, part: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(images uint8 [N, 3, 32, 32], labels int64 [N], class names), in file order."""
    base = folder(root, kind)
    _, train, test, key, (meta, names_key), classes = LAYOUT[kind]
    images, labels = [], []
    for name in train if part == "train" else (test,):
        content = read_pickle(base / name)
        data, marks = content.get("data"), content.get(key)
        table = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (3072,)
        if not table:
            raise UserError(f"{base / name}: 'data' is not a table of 3072 bytes an image")
        if not isinstance(marks, list) or len(marks) != len(data) or not all(type(m) is int for m in marks):
            raise UserError(f"{base / name}: '{key}' is not a list of {len(data)} labels")
        images.append(data.reshape(-1, 3, 32, 32))
        labels.append(np.array(marks, dtype=np.int64))
    names = [str(n) for n in range(classes)]
    if (base / meta).is_file():
        found = read_pickle(base / meta).get(names_key)
        if isinstance(found, list) and len(found) == classes:
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in found]
    return np.concatenate(images), np.concatenate(labels), names
