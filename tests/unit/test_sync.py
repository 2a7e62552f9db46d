"""Batch normalisation over ranks, imitated in one process; tests/workflow/test_ranks.py runs it on two."""

import pytest
import torch
from torch import nn

from lt import distributed
from lt.models.sync import sync_batch_norms


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_half_types_are_rounded_once_as_by_torchs_own(monkeypatch, shift):
    """Of activations far from zero, scale and offset in bf16 would leave a bias in every channel."""
    x = (torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + shift).bfloat16()
    native, synced = nn.BatchNorm2d(4), sync_batch_norms(nn.Sequential(nn.BatchNorm2d(4)))[0]
    wanted = native(x.float())
    found_native = nn.BatchNorm2d(4)(x)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "total_grad", lambda tensor: 2 * tensor)  # both ranks hold the same images
    found = synced(x)
    assert found.dtype == torch.bfloat16
    error, usual = ((f.float() - wanted).abs().max().item() for f in (found, found_native))
    assert error <= 1.01 * usual
    assert (found.float() - wanted).mean((0, 2, 3)).abs().max() < 2e-3
    torch.testing.assert_close(synced(x.float()), wanted, rtol=0, atol=1e-4)
