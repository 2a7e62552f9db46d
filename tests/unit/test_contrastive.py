from __future__ import annotations

import math
import time

import pytest
import torch
from torch.nn import functional as F

from lt.errors import UserError
from lt.losses import contrastive


def broadcast_bns(first, second, labels, *, tau):
    """The ordinary way: every pair of projections side by side, [M, M, d]."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    cosine = F.cosine_similarity(z[:, None], z[None, :], dim=2)
    label = torch.cat([labels, labels])
    same = (label[:, None] == label[None, :]).float()
    other = 1 - same
    same = same - torch.eye(len(z))
    similar = torch.exp(cosine / tau)
    pos = (similar * same).sum(1) / same.sum(1).clamp(min=1)
    neg = (similar * other).sum(1) / len(z)
    return -(torch.log(torch.sigmoid(pos)) + torch.log(torch.sigmoid(-neg))).mean()


def batch(size: int, *, classes: int = 10, seed: int = 0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    views = [torch.randn(size, 128, generator=g, dtype=dtype).requires_grad_() for _ in range(2)]
    return *views, torch.randint(0, classes, (size,), generator=g)


def timed(loss, views, labels, rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        loss(*views, labels, tau=0.5).backward()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


@pytest.mark.slow
def test_matrix_form_is_the_broadcast_form_and_100_times_faster() -> None:
    first, second, labels = batch(256)
    value = contrastive.bns(first, second, labels)
    value.backward()
    grads = [first.grad.clone(), second.grad.clone()]
    first.grad = second.grad = None
    expected = broadcast_bns(first, second, labels, tau=0.5)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, wanted in zip(grads, (first.grad, second.grad), strict=True):
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    slow = timed(broadcast_bns, (first, second), labels, 1)
    assert slow > 100 * timed(contrastive.bns, (first, second), labels, 5)


def test_no_negatives_and_no_positives_are_defined() -> None:
    first, second, _ = batch(6, dtype=torch.float64)
    one = contrastive.bns(first, second, torch.zeros(6, dtype=torch.long))
    assert one.item() > math.log(2)
    assert torch.isfinite(one)
    apart = contrastive.bns(first, second, torch.arange(6), torch.arange(6, 12))
    similar = F.normalize(torch.cat([first, second]), dim=1)
    similar = (similar @ similar.T / 0.5).exp().fill_diagonal_(0)
    expected = math.log(2) - F.logsigmoid(-similar.sum(1) / 12).mean()
    assert apart.item() == pytest.approx(expected.item(), rel=1e-12)
    single = contrastive.bns(first[:1], second[:1], torch.tensor([3]))
    cosine = F.cosine_similarity(first[:1], second[:1]).item()
    expected = math.log(2) + math.log1p(math.exp(-math.exp(2 * cosine)))
    assert single.item() == pytest.approx(expected, rel=1e-12)


def test_scale_and_order_of_samples_do_not_matter() -> None:
    first, second, labels = batch(12, classes=3, dtype=torch.float64)
    for loss in contrastive.CONTRASTIVE.values():
        value = loss(first, second, labels).item()
        assert loss(first * 1e6, second * 1e-6, labels).item() == pytest.approx(value, rel=1e-12)
        order = torch.randperm(12)
        assert loss(first[order], second[order], labels[order]).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", contrastive.CONTRASTIVE)
def test_gradients_by_differences(name: str) -> None:
    first, second, labels = batch(5, classes=2, dtype=torch.float64)
    views = [v.detach()[:, :4].clone().requires_grad_() for v in (first, second)]
    assert torch.autograd.gradcheck(lambda a, b: contrastive.CONTRASTIVE[name](a, b, labels), views)


@pytest.mark.parametrize("name", contrastive.CONTRASTIVE)
def test_zero_rows_and_half_types(name: str) -> None:
    first, second, labels = batch(8, classes=3)
    loss = contrastive.build(name, tau=0.5)
    zeroed = first.detach().clone()
    zeroed[2] = 0
    zeroed.requires_grad_()
    loss(zeroed, second, labels).backward()
    assert torch.isfinite(zeroed.grad).all()
    assert not zeroed.grad[2].any()
    assert zeroed.grad[1].any()
    value = loss(first, second, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(first, second, labels).item() == value.item()
        half = loss(first.bfloat16(), second.bfloat16(), labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(value.item(), rel=1e-2)


def test_small_tau_overflows_loudly_and_not_before() -> None:
    first, second, labels = batch(64, classes=2)
    with pytest.raises(UserError, match=r"tau is 0.011, .* overflows in float32; expected at least 0.0113"):
        contrastive.bns(first, second, labels, tau=0.011)
    first = first.detach().double().requires_grad_()
    loss = contrastive.bns(first, first, labels, tau=0.00142)  # cosines of 1: exp(704) in float64
    assert torch.isfinite(loss)
    with pytest.raises(UserError, match="float64"):
        contrastive.bns(first, second.double(), labels, tau=0.0005)
    assert torch.isfinite(contrastive.bns_eq12(first, second.double(), labels, tau=0.0005))


@pytest.mark.parametrize("name", contrastive.CONTRASTIVE)
def test_mistakes_are_named(name: str) -> None:
    first, second, labels = batch(4)
    loss = contrastive.CONTRASTIVE[name]
    for views, y, tau, words in [
        ((first, second[:3]), labels, 0.5, "expected two of the same"),
        ((first[:0], second[:0]), labels[:0], 0.5, "expected two of the same"),
        ((first, second), labels[:3], 0.5, "for 4 samples"),
        ((first, second), labels.float(), 0.5, "one whole number a sample"),
        ((first, second), labels, 0.0, "tau is 0.0"),
        ((first, second), labels, float("nan"), "tau is nan"),
    ]:
        with pytest.raises(UserError, match=words):
            loss(*views, y, tau=tau)
    with pytest.raises(UserError, match="did you mean 'bns'"):
        contrastive.build("bnss")
    with pytest.raises(UserError, match="no option 'temperature'; known: tau"):
        contrastive.build(name, temperature=1.0)
