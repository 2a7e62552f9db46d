"""Sources of random numbers behind one face: `random.Random`, numpy's generators, `torch.Generator`."""

from __future__ import annotations

import random

import numpy as np

from lt import rng
from lt.errors import UserError


def uniforms(source: object, number: int) -> np.ndarray:
    if isinstance(source, random.Random):
        return np.array([source.random() for _ in range(number)])
    if is_torch(source):
        import torch

        return torch.rand(number, dtype=torch.float64, generator=source).numpy()
    return source.random(number)


def shuffle(source: object, items: np.ndarray) -> None:
    if is_torch(source):
        import torch

        items[:] = items[torch.randperm(len(items), generator=source).numpy()]
    else:
        source.shuffle(items)


def below(source: object, limit: int) -> int:
    """A whole number in [0, limit)."""
    if isinstance(source, random.Random):
        return source.randrange(limit)
    if isinstance(source, np.random.Generator):
        return int(source.integers(limit))
    if is_torch(source):
        import torch

        return int(torch.randint(limit, (), generator=source))
    return int(source.randint(limit))


def is_torch(source: object) -> bool:
    return hasattr(source, "manual_seed")


def source_state(source: object) -> dict:
    """Position of a source as plain numbers."""
    if isinstance(source, random.Random):
        version, words, gauss = source.getstate()
        return {"kind": "random", "version": version, "words": list(words), "gauss": gauss}
    if isinstance(source, np.random.RandomState):
        return {"kind": "numpy", "state": _plain(source.get_state(legacy=False))}
    if isinstance(source, np.random.Generator):
        if isinstance(source.bit_generator, np.random.Philox):
            return {"kind": "philox", "state": rng.state(source)}
        return {"kind": "numpy", "state": _plain(source.bit_generator.state)}
    if is_torch(source):
        return {"kind": "torch", "state": source.get_state().tolist()}
    raise UserError(f"sampler: {type(source).__name__} is not a source of random numbers")


def restore_source(source: object, saved: dict) -> None:
    kind = saved["kind"]
    if kind != source_state(source)["kind"]:
        raise UserError(f"sampler: the saved position belongs to another kind of source ({kind})")
    if kind == "random":
        source.setstate((saved["version"], tuple(saved["words"]), saved["gauss"]))
    elif kind == "philox":
        rng.restore(source, saved["state"])
    elif kind == "torch":
        import torch

        source.set_state(torch.tensor(saved["state"], dtype=torch.uint8))
    elif isinstance(source, np.random.RandomState):
        source.set_state(saved["state"])
    else:
        source.bit_generator.state = saved["state"]


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
