"""BNS as released, and equation 12 in this project's reading: values and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lt.losses import contrastive

DATA = Path(__file__).parent / "ipdpp"
CODE = np.load(DATA / "bns_loss.npz")
PAPER = np.load(DATA / "bns_eq12_reading.npz")


def close(found: torch.Tensor, expected: np.ndarray, tolerance: float) -> bool:
    expected = torch.from_numpy(np.asarray(expected))
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("case", sorted(n[: -len("_loss")] for n in CODE.files if n.endswith("_loss")))
def test_as_released(case: str) -> None:
    first, second = (torch.from_numpy(CODE[f"{case}_emb_{v}"]).requires_grad_() for v in "ij")
    labels = [torch.from_numpy(CODE[f"{case}_labels_{v}"]) for v in "ij"]
    tolerance = 1e-6 if case.endswith("f32") else 1e-10
    loss = contrastive.bns(first, second, *labels, tau=float(CODE[f"{case}_tau"]))
    loss.backward()
    assert close(loss.detach(), CODE[f"{case}_loss"], tolerance)
    assert close(first.grad, CODE[f"{case}_grad_i"], tolerance)
    assert close(second.grad, CODE[f"{case}_grad_j"], tolerance)


@pytest.mark.parametrize("case", "ab")
def test_equation_12(case: str) -> None:
    first, second = (torch.from_numpy(PAPER[f"{case}_{v}"]).requires_grad_() for v in "qv")
    loss = contrastive.bns_eq12(first, second, torch.from_numpy(PAPER[f"{case}_y"]), tau=float(PAPER[f"{case}_tau"]))
    loss.backward()
    assert close(loss.detach(), PAPER[f"{case}_loss"], 1e-10)
    assert close(first.grad, PAPER[f"{case}_grad_q"], 1e-10)
    assert close(second.grad, PAPER[f"{case}_grad_v"], 1e-10)
