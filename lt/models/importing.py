"""Read a checkpoint that someone else wrote, without running any code of theirs.

Only tensors and plain containers come out. The few other classes that the official files hold are named here,
and each is replaced by a stand-in of ours; any other global in the pickle stops the reading.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt.errors import UserError

_NUMERIC = frozenset(
    ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
)  # numpy's codes for plain numbers


class Inert:
    """Stands for an object that is not wanted (a parsed configuration, a path); holds nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class _Dtype:
    """numpy.dtype as a pickle describes it: a code and a byte order."""

    def __init__(self, code: object = None, *_flags: object) -> None:
        self.code, self.order = code.decode() if isinstance(code, bytes) else code, "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1:
            order = state[1].decode() if isinstance(state[1], bytes) else state[1]
            self.order = ">" if order == ">" else "<"


def _scalar(dtype: object, data: object = None) -> float | int | bool:
    """numpy's scalar of a plain numeric type, from its bytes."""
    if not isinstance(dtype, _Dtype) or dtype.code not in _NUMERIC:
        raise pickle.UnpicklingError("a numpy scalar that is no plain number")
    kind = np.dtype(dtype.order + dtype.code)
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(data, bytes) or len(data) != kind.itemsize:
        raise pickle.UnpicklingError("a numpy scalar of the wrong length")
    return np.frombuffer(data, kind)[0].item()


# every global an official file may name beside torch's own list, and what it becomes
HARMLESS: dict[str, Any] = {
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.ndarray": Inert,
    "numpy.core.multiarray._reconstruct": Inert,
    "numpy._core.multiarray._reconstruct": Inert,
    "argparse.Namespace": Inert,  # IP-DPP, MAE, LiVT: args
    "parse_config.ConfigParser": Inert,  # RIDE: config
    "pathlib.PosixPath": Inert,
    "pathlib.WindowsPath": Inert,
    "pathlib.PurePosixPath": Inert,
    "pathlib.PureWindowsPath": Inert,
}


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _plain(value: Any, depth: int = 0) -> Any:
    """Dictionaries, lists, tensors and scalars; what is inert becomes None."""
    if depth > 20:
        raise pickle.UnpicklingError("nested deeper than 20 levels")
    if isinstance(value, dict):
        # dict's own view: an unpickled OrderedDict may carry attributes that hide its methods
        return {k: _plain(v, depth + 1) for k, v in dict.items(value) if isinstance(k, (str, int))}
    if isinstance(value, (list, tuple)):
        return [_plain(v, depth + 1) for v in value]
    if isinstance(value, torch.Tensor):
        return value.detach()
    return value if isinstance(value, (str, int, float, bool)) else None


def _reason(error: BaseException) -> str:
    text = str(error)
    for start in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL "):
        if start in text:
            name = text.split(start, 1)[1].split()[0]
            return f"it names '{name}', which is not on the list of harmless globals"
    if "WeightsUnpickler error: " in text:  # what torch says around it is advice to whoever calls it
        said = text.split("WeightsUnpickler error: ", 1)[1].strip().partition("\n")[0]
        return f"it is not a checkpoint ({said[:80]})"
    if isinstance(error, (EOFError, OSError, struct.error)) or "central directory" in text:
        return "it is truncated or not a checkpoint"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"it cannot be read as weights ({first[:160]})"


def load_official(path: str | Path) -> tuple[dict[str, Any], str]:
    """An official file as plain containers, and the sha256 of its bytes."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    digest = file_digest(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path)), digest
        allowed = [(stand_in, name) for name, stand_in in HARMLESS.items()]
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            container = _plain(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a damaged or hostile file provokes is the file's fault
        raise UserError(f"{path}: {_reason(error)}") from error
    if not isinstance(container, dict) or not container:
        raise UserError(f"{path}: expected a dictionary of weights, found {type(container).__name__}")
    return container, digest


def torchvision_source(arch: str) -> dict[str, Any]:
    """Where torchvision's V1 ImageNet weights come from: url, file, MiB, first digits of the sha256."""
    import lt.compat  # noqa: F401, I001  (before torchvision)
    from torchvision.models import get_model_weights

    weights = get_model_weights(arch)["IMAGENET1K_V1"]
    file = weights.url.rsplit("/", 1)[1]
    return {
        "source": weights.url,
        "file": file,
        "mib": weights.meta["_file_size"],
        "sha256": file.rsplit("-", 1)[1].split(".")[0],
    }


def torchvision_problem(path: str | Path, arch: str) -> str | None:
    """What keeps a file from being torchvision's V1 weights of `arch`, in one line: source, size and digest."""
    known, path = torchvision_source(arch), Path(path)
    meant = f"torchvision's {arch} weights (IMAGENET1K_V1, {known['mib']:.1f} MiB, sha256 {known['sha256']}...)"
    get = f"get {known['source']} and put it in {path.parent}"
    if not path.is_file():
        others = sorted(path.parent.glob(f"{arch}-*.pth"))
        there = f"; {others[0].name}, which is there, is another file: wrong weights" if others else ""
        return f"{path}: {meant} are absent{there}; {get}"
    if abs((mib := path.stat().st_size / 2**20) - known["mib"]) > 0.001:  # published to three digits
        return f"{path}: wrong file of {mib:.1f} MiB, not {meant}; {get}"
    if not (digest := file_digest(path)).startswith(known["sha256"]):
        return f"{path}: wrong file of sha256 {digest[:8]}, not {meant}; {get}"
    return None


def load_torchvision(path: str | Path, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """torchvision's V1 weights of `arch` from a file, checked against its published size and digest."""
    if problem := torchvision_problem(path, arch):
        raise UserError(problem)
    state, digest = load_official(path)
    return state, {**torchvision_source(arch), "sha256": digest}
