"""The subset rule `dpp`: at most k images a class, drawn from a finished model's predictions on the training list."""

from __future__ import annotations

from typing import Any

import numpy as np

from lt import rng
from lt.errors import UserError
from lt.sampling import dpp


def drawn(
    source: Any,
    lists: Any,
    *,
    index: int,
    seed: int,
    inputs: dict,
    k: int,
    sampler: str = "exact",
    kernel: str = "paper",
    mcmc_steps: int | None = None,
) -> np.ndarray:
    """Positions in the source. Each index is a draw of its own; the released samplers have only one."""
    labels = lists.relabel(source.labels)[lists.train]
    p = features = None
    if "predictions" in inputs:
        p, features = seen(inputs["predictions"] / "predictions.npz", lists.train, labels, kernel=kernel)
    elif sampler not in ("official", "uniform"):
        raise UserError(f"subset: rule dpp: sampler '{sampler}' needs a model's predictions; set of: <stage>")
    generator = None if sampler in dpp.RELEASED else rng.stream(seed, "subset", "dpp", index)
    given = {"sampler": sampler, "kernel": kernel, "p": p, "features": features, "steps": mcmc_steps}
    picked = dpp.draw(labels, k, source=generator, **given)
    return lists.train[picked]


def seen(path: Any, indices: np.ndarray, labels: np.ndarray, *, kernel: str) -> tuple[np.ndarray, np.ndarray | None]:
    """p of each image's own label, and its features where the kernel is made of them, in the list's order."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if not np.array_equal(np.sort(arrays["indices"]), np.sort(indices)):
        raise UserError(f"{path}: not the predictions of this split's training list")
    if kernel == "features" and "features" not in arrays:
        raise UserError(f"{path}: holds no features; add outputs: [features] to the predict stage")
    place = np.argsort(arrays["indices"], kind="stable")[np.searchsorted(np.sort(arrays["indices"]), indices)]
    logits = arrays["logits"][place].astype(np.float64)
    share = np.exp(logits - logits.max(1, keepdims=True))
    p = share[np.arange(len(labels)), labels] / share.sum(1)
    return p, arrays["features"][place] if kernel == "features" else None
