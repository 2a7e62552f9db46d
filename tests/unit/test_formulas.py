"""Losses against their formulas in plain numpy float64, at class counts, batches and options that Hypothesis picks.

Golden numbers hold a few settings of each; here every option moves. The formulas are written out once more, not shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.losses import build
from lt.losses.contrastive import bns, bns_eq12
from lt.losses.experts import router_targets

quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def log_softmax(z: np.ndarray) -> np.ndarray:
    top = z.max(1, keepdims=True)
    return z - top - np.log(np.exp(z - top).sum(1, keepdims=True))


def binary(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))


def single(values: np.ndarray) -> np.ndarray:
    """Rounded as the published codes store their constants."""
    return values.astype(np.float32).astype(np.float64)


class Case:
    """A batch, its labels, and two-label soft targets of it with its reverse."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.classes, self.size = int(rng.integers(2, 9)), int(rng.integers(1, 9))
        self.n = rng.integers(1, 3000, self.classes).astype(np.float64)
        self.n[0] = 3001.0  # never all equal
        self.n = rng.permutation(self.n)
        self.pi = self.n / self.n.sum()
        self.z = rng.standard_normal((self.size, self.classes)) * rng.choice([0.5, 3.0, 10.0])
        self.y = rng.integers(0, self.classes, self.size)
        self.hard = np.eye(self.classes)[self.y]
        share = rng.uniform(0.55, 0.95)
        self.soft = single(share * self.hard + (1 - share) * self.hard[::-1])
        self.rng = rng

    def nll(self, z: np.ndarray) -> np.ndarray:
        return -log_softmax(z)[np.arange(self.size), self.y]


def agrees(
    case: Case, name: str, want: float, target: np.ndarray | None = None, tol: float = 5e-7, **options: Any
) -> None:
    loss = build(name, class_counts=case.n, **options)
    target = case.y if target is None else target
    got = float(loss(torch.tensor(case.z), torch.tensor(target)))
    assert got == pytest.approx(want, rel=tol, abs=tol), (name, options)


@quick
@given(seeds, st.floats(-1.0, 3.0), st.sampled_from([0.0, 0.1, 0.37]))
def test_losses_with_a_prior(seed: int, tau: float, s: float) -> None:
    case = Case(seed)
    odds = np.log(case.pi) - np.log(1 - case.pi)
    smooth = case.hard * (1 - s) + s / case.classes
    agrees(case, "balanced_softmax", case.nll(case.z + tau * np.log(case.pi)).mean(), tau=tau)
    agrees(case, "logit_adjustment", case.nll(case.z + tau * np.log(case.pi)).mean(), tau=tau)
    biased = log_softmax(case.z + tau * np.log(case.pi))
    agrees(case, "balanced_softmax", -(case.soft * biased).sum(1).mean(), case.soft, tau=tau)
    agrees(case, "bal_bce", binary(case.z + tau * odds, smooth).sum() / case.size, tau=tau, smoothing=s)
    agrees(case, "bal_bce", binary(case.z + tau * odds, case.soft).sum() / case.size, case.soft, tau=tau, smoothing=s)
    agrees(case, "bce", binary(case.z, smooth).mean(), classes="mean", smoothing=s)
    kept = (case.soft > 0.2).astype(np.float64)
    agrees(case, "bce", binary(case.z, kept).sum() / case.size, case.soft, target_threshold=0.2)


@quick
@given(seeds, st.sampled_from([0.0, 0.9, 0.999, 0.9999]), st.sampled_from([0.2, 0.5]))
def test_class_balanced_weights_and_margins(seed: int, beta: float, largest: float) -> None:
    case = Case(seed)
    w = (1 - beta) / (1 - beta**case.n)
    w = single(w / w.sum() * case.classes)
    weighted = (w[case.y] * case.nll(case.z)).sum() / w[case.y].sum()
    agrees(case, "class_balanced", weighted, form="ce", beta=beta)
    agrees(case, "class_balanced", (w * binary(case.z, case.soft)).sum() / case.size, case.soft, form="bce", beta=beta)
    gamma = 0.7
    focus = np.exp(-gamma * case.hard * case.z - gamma * np.log1p(np.exp(-case.z)))
    rows = w[case.y][:, None] * focus * binary(case.z, case.hard)
    agrees(case, "class_balanced", rows.sum() / case.size, form="focal", beta=beta, gamma=gamma)
    m = case.n**-0.25
    m = single(m * largest / m.max())
    for scaled, inner in ((False, 30.0), (True, 1.0)):
        moved = case.z - case.hard * m * (1.0 if not scaled else 30.0)
        each = case.nll(inner * moved)
        agrees(case, "ldam", each.mean(), max_margin=largest, scaled_logits=scaled, tol=2e-6)
        drw = (w[case.y] * each).sum() / w[case.y].sum()
        options = {"max_margin": largest, "scaled_logits": scaled, "reweight_epoch": 0, "beta": beta}
        agrees(case, "ldam", drw, tol=2e-6, **options)


@quick
@given(seeds, st.sampled_from(["concave", "linear", "convex", "exp"]), st.sampled_from([0.5, 2.0]))
def test_smoothing_by_class_size(seed: int, shape: str, power: float) -> None:
    case = Case(seed)
    head, tail = 0.4, 0.1
    u = (case.n - case.n.min()) / (case.n.max() - case.n.min())
    curves = {
        "concave": tail + (head - tail) * np.sin(np.pi * u / 2),
        "linear": tail + (head - tail) * u,
        "convex": head + (head - tail) * np.sin(1.5 * np.pi + np.pi * u / 2),
        "exp": tail + (head - tail) * u**power,
    }
    e = single(curves[shape])[case.y]
    every = -log_softmax(case.z)
    own = case.nll(case.z)
    options = {"shape": shape, "power": power, "head": head, "tail": tail}
    agrees(case, "label_aware_smoothing", ((1 - e) * own + e * every.mean(1)).mean(), **options)
    wrong = (every.sum(1) - own) / (case.classes - 1)
    agrees(case, "label_aware_smoothing", ((1 - e) * own + e * wrong).mean(), form="paper", **options)


@quick
@given(seeds, st.sampled_from([0.1, 0.3]), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_losses_of_a_batchs_statistics(seed: int, strength: float, power: float) -> None:
    case = Case(seed)
    seen = case.hard.sum(0)
    a = (case.z * case.hard).sum(0) / (seen + 1e-8)
    spread = case.z - np.log(case.pi + 1e-9) + np.log(1 / case.classes + 1e-9)
    b = np.logaddexp.reduce(spread, axis=0) - np.log(case.size)
    lade = -(case.pi * (a - b - strength * b * b)).sum()
    agrees(case, "lade", lade, form="livt", strength=strength, tol=2e-6)
    full = case.nll(case.z + np.log(case.pi)).mean() + 0.25 * lade
    agrees(case, "lade", full, strength=strength, alpha=0.25, tol=2e-6)
    q = np.exp(log_softmax(case.z + np.log(case.n))).clip(1e-5, 1)
    values = np.array([-np.log(q[case.y == c, c].mean()) for c in np.flatnonzero(seen)])
    agrees(case, "gml", (values**power).mean() ** (1 / power), power=power, tol=1e-6)


@quick
@given(seeds, st.sampled_from(["code", "paper"]), st.sampled_from(["double", "single"]), st.booleans())
def test_bagmar_with_the_matrices_of_the_card(seed: int, form: str, accumulate: str, weighted: bool) -> None:
    rng, classes, eps = np.random.default_rng(seed), Case(seed).classes, 1e-3
    rise, fall = rng.choice([0.5, 1.0, 1.2]), rng.choice([0.0, 0.9, 1.5])
    options = {"lambda1": float(rise), "lambda2": float(fall), "form": form, "accumulate": accumulate}
    loss = build(
        "bagmar", class_counts=np.ones(classes), weighting="neg_pos_bal_norm" if weighted else "none", **options
    )
    s, p, n = (np.zeros((classes, classes)) for _ in range(3))
    theta, phi, ratio, diagonal = np.zeros(classes), np.zeros(classes), np.ones(classes), np.eye(classes)
    for _ in range(4):
        size = int(rng.integers(1, 7))
        z, y = 2 * rng.standard_normal((size, classes)), rng.integers(0, classes, size)
        margin = rise * np.log(theta + eps) - fall * np.log(phi[y] + eps)[:, None]
        moved = z + (margin if form == "code" else margin * (1 - diagonal[y]))
        g = (np.exp(log_softmax(moved)) - diagonal[y]) / size
        h = g
        if weighted:
            h = np.where(diagonal[y] > 0, g, g * ratio)
            before, after = np.sqrt((g**2).sum(0)), np.sqrt((h**2).sum(0))
            h = h * np.where(after > 0, before / np.where(after > 0, after, 1), 1)
        for i, label in enumerate(y):
            s[:, label] += np.abs(h[i])
        p, n = (
            (p + s * diagonal, n + s * (1 - diagonal)) if accumulate == "double" else (s * diagonal, s * (1 - diagonal))
        )
        logits = torch.tensor(z, requires_grad=True)
        value = loss(logits, torch.tensor(y))
        value.backward()
        theta, phi, ratio = p.sum(1), n.sum(0), (p.sum(1) + 1e-10) / (n.sum(1) + 1e-10)
        assert value.item() == pytest.approx(-log_softmax(moved)[np.arange(size), y].mean(), rel=1e-9)
        np.testing.assert_allclose(logits.grad.numpy(), h, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(loss.theta.numpy(), theta, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(loss.phi.numpy(), phi, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(loss.ratio.numpy(), ratio, rtol=1e-7)


@quick
@given(seeds, st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_contrastive_losses_pair_by_pair(seed: int, tau: float, same_labels: bool) -> None:
    rng = np.random.default_rng(seed)
    size, dim = int(rng.integers(1, 8)), int(rng.integers(2, 6))
    first, second = rng.standard_normal((2, size, dim))
    y1 = rng.integers(0, 3, size)
    y2 = y1 if same_labels else rng.integers(0, 3, size)
    z, labels = np.concatenate([first, second]), np.concatenate([y1, y2])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    log_sigmoid = lambda x: -np.logaddexp(0, -x)
    total = 0.0
    for a in range(2 * size):
        near = [np.exp(z[a] @ z[b] / tau) for b in range(2 * size) if b != a and labels[b] == labels[a]]
        far = [np.exp(z[a] @ z[b] / tau) for b in range(2 * size) if labels[b] != labels[a]]
        total -= log_sigmoid(sum(near) / max(len(near), 1)) + log_sigmoid(-sum(far) / (2 * size))
    views = torch.tensor(first), torch.tensor(second), torch.tensor(y1)
    assert float(bns(*views, torch.tensor(y2), tau=tau)) == pytest.approx(total / (2 * size), rel=1e-10)
    q, v = z[:size], z[size:]
    total = 0.0
    for i in range(size):
        alike = [j for j in range(size) if y1[j] == y1[i]]
        other = [j for j in range(size) if y1[j] != y1[i]]
        terms = [log_sigmoid(q[k] @ v[i] / tau) + sum(log_sigmoid(-q[k] @ v[j] / tau) for j in other) for k in alike]
        total -= sum(terms) / len(alike)
    assert float(bns_eq12(*views, tau=tau)) == pytest.approx(total / size, rel=1e-10)


@quick
@given(seeds, st.sampled_from([0.0, -0.45, 0.3]), st.booleans(), st.booleans())
def test_ride_expert_by_expert(seed: int, factor: float, late: bool, collaborative: bool) -> None:
    case = Case(seed)
    experts, gamma, temperature = int(case.rng.integers(1, 5)), 0.05, float(case.rng.choice([0.7, 1.0, 2.0]))
    z = case.rng.standard_normal((experts, case.size, case.classes)) * 5
    mean = z.mean(0)
    w = (1 - 0.9999) / (1 - 0.9999**case.n)
    w = single(w / w.sum() * case.classes)[case.y]
    v = case.classes * case.pi * gamma + 1 - gamma
    tau = temperature * single(v / v.max()) if late else np.full(case.classes, temperature)
    m = case.n**-0.25
    m = single(m * 0.5 / m.max())
    want = 0.0
    for e in range(experts):
        base = case.nll((mean if factor == 0 and collaborative else z[e]) - 30 * m * case.hard)
        want += (w * base).sum() / w.sum() if late else base.mean()
        log_q, log_p = log_softmax(mean / tau), log_softmax(z[e] / tau)
        want += factor * tau.mean() ** 2 * (np.exp(log_q) * (log_q - log_p)).sum(1).mean()
    options = {"diversity_factor": factor, "reweight_factor": gamma, "temperature": temperature, "reweight_epoch": 160}
    loss = build("ride", class_counts=case.n, collaborative_when_zero=collaborative, **options)
    loss.set_epoch(160 if late else 159)
    got = float(loss(torch.tensor(z).transpose(0, 1), torch.tensor(case.y)))
    assert got == pytest.approx(want, rel=1e-9)
    sums = z.cumsum(0).transpose(1, 0, 2)
    right = sums.argmax(2) == case.y[:, None]
    wanted = [[not right[i, e] and right[i, e + 1 :].any() for e in range(experts - 1)] for i in range(case.size)]
    assert router_targets(torch.tensor(sums), torch.tensor(case.y)).tolist() == wanted
