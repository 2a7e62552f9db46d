"""Named random streams: every draw is a pure function of (seed, purpose, keys)."""

from __future__ import annotations

import hashlib

import numpy as np

PURPOSES = (
    "init",  # network weights
    "order",  # which sample comes when, per epoch
    "augment",  # table of augmentation draws, per epoch
    "mixup",  # lambda and permutation, per epoch and step
    "dropout",  # dropout, drop path and masking, per epoch and step
    "sampler",  # stateful samplers, one stream from epoch 0
    "split",  # which images a split keeps
    "subset",  # balanced and determinantal subsets, per branch
    "router",  # batches of a second stage that draws its own
    "meta",  # the balanced batches of a meta step
    "noise",  # loss-internal draws (EQL's mask, Gumbel noise), per step
    "bootstrap",  # resampling in statistics
)


def _words(seed: int, purpose: str, keys: tuple[int | str, ...]) -> list[int]:
    if purpose not in PURPOSES:
        raise KeyError(f"unknown purpose '{purpose}'; known: {', '.join(PURPOSES)}")
    text = "/".join([str(int(seed)), purpose, *(str(k) for k in keys)])
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]


def stream(seed: int, purpose: str, *keys: int | str) -> np.random.Generator:
    """A generator of its own for this purpose; Philox, so that equal keys give equal draws anywhere."""
    words = _words(seed, purpose, keys)
    key = np.array([words[0] | words[1] << 32, words[2] | words[3] << 32], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def torch_seed(seed: int, purpose: str, *keys: int | str) -> int:
    """A 63-bit seed for a torch generator (weights, masks that live on the device)."""
    words = _words(seed, purpose, keys)
    return (words[4] | words[5] << 32) & (2**63 - 1)


def state(generator: np.random.Generator) -> dict:
    """JSON form of a generator's position, for samplers that persist over epochs."""
    raw = generator.bit_generator.state
    return {
        "counter": [int(v) for v in raw["state"]["counter"]],
        "key": [int(v) for v in raw["state"]["key"]],
        "buffer": [int(v) for v in raw["buffer"]],
        "buffer_pos": int(raw["buffer_pos"]),
        "has_uint32": int(raw["has_uint32"]),
        "uinteger": int(raw["uinteger"]),
    }


def restore(generator: np.random.Generator, saved: dict) -> None:
    """Put a generator back to a position from `state`."""
    generator.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array(saved["counter"], dtype=np.uint64),
            "key": np.array(saved["key"], dtype=np.uint64),
        },
        "buffer": np.array(saved["buffer"], dtype=np.uint64),
        "buffer_pos": saved["buffer_pos"],
        "has_uint32": saved["has_uint32"],
        "uinteger": saved["uinteger"],
    }
