"""The stateful loss against the published code's numbers, batch after batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lt.losses import build
from lt.losses.margin import bagmar_logits

FOLDER = Path(__file__).parent / "bagmar"
STATE = np.load(FOLDER / "gala_state.npz")
PAPER = np.load(FOLDER / "gala_paper_form.npz")

OFF = {"lambda1": 0.0, "lambda2": 0.0}  # 0 * log(theta + eps): no margin
VARIANTS = {
    "gala": {},
    "gala_l12_l09": {"lambda1": 1.2, "lambda2": 0.9},
    "ce": OFF,
    "neg_pos_bal": {"weighting": "neg_pos_bal"},
    "neg_pos_bal_norm": {"weighting": "neg_pos_bal_norm"},
    "bs": {"criterion": "balanced_softmax", **OFF},
    "bs_gala": {"criterion": "balanced_softmax"},
}


def close(actual, expected, rtol: float = 1e-10) -> None:
    actual = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual, dtype=np.float64)
    expected = np.asarray(expected, dtype=np.float64)
    worst = np.max(np.abs(actual - expected) / (1 + np.abs(expected)))
    assert worst <= rtol, f"off by {worst:.2e}"


def classifier(weight, bias):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    lr, momentum, decay = (float(STATE[k]) for k in ("lr", "momentum", "weight_decay"))
    return layer, torch.optim.SGD(layer.parameters(), lr=lr, momentum=momentum, weight_decay=decay)


@pytest.mark.parametrize("variant", VARIANTS)
def test_six_batches(variant: str) -> None:
    want = {k.split("/")[1]: STATE[k] for k in STATE.files if k.startswith(variant + "/")}
    loss = build("bagmar", class_counts=STATE["spc"], **VARIANTS[variant])
    layer, optimiser = classifier(STATE["W0"], STATE["b0"])
    for t in range(len(STATE["X"])):
        x, y = torch.tensor(STATE["X"][t]).requires_grad_(), torch.tensor(STATE["Y"][t])
        logits = layer(x)
        logits.retain_grad()
        close(loss.adjusted(logits, y), want["logits"][t])
        value = loss(logits, y)
        optimiser.zero_grad()
        value.backward()
        close(value, want["loss"][t])
        close(logits.grad, want["grad_logits_used"][t])
        close(x.grad, want["grad_x"][t])
        close(layer.weight.grad, want["W_grad"][t])
        close(layer.bias.grad, want["b_grad"][t])
        optimiser.step()
        close(layer.weight, want["W"][t])
        close(layer.bias, want["b"][t])
        close(loss.sums[0], np.diag(want["fine"][t]))
        close(loss.sums[1], (want["fine"][t] * (1 - np.eye(6))).sum(0))
        close(loss.sums[2], (want["fine"][t] * (1 - np.eye(6))).sum(1))
        close(loss.theta, want["cls_pos"][t])
        close(loss.phi, want["sample_neg"][t])
        close(loss.totals[2], want["cls_neg"][t])
        close(loss.ratio, want["ratio"][t])
    loss.eval()
    logits = layer(torch.tensor(STATE["X"][0]))
    close(logits, want["eval_logits"])
    before = loss.totals.clone()
    plain = build(VARIANTS[variant].get("criterion", "cross_entropy"), class_counts=STATE["spc"])
    y = torch.tensor(STATE["Y"][0])
    assert torch.equal(loss(logits, y), plain(logits, y))
    assert torch.equal(loss.totals, before)


def test_sixty_batches() -> None:
    long = {k.split("/")[1]: STATE[k] for k in STATE.files if k.startswith("long/")}
    loss = build("bagmar", class_counts=np.ones(len(long["cls_pos"][0])))
    layer, optimiser = classifier(long["W0"], long["b0"])
    for t in range(len(long["loss"])):
        value = loss(layer(torch.tensor(long["X"][t])), torch.tensor(long["Y"][t]))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        close(value, long["loss"][t], 1e-8)
        close(loss.theta, long["cls_pos"][t], 1e-8)
        close(loss.totals[2], long["cls_neg"][t], 1e-8)
        close(loss.phi, long["sample_neg"][t], 1e-8)
    close(loss.sums[0], np.diag(long["fine_last"]), 1e-8)
    close(layer.weight, long["W_last"], 1e-8)


@pytest.mark.parametrize("source", ["indep", "same"])
@pytest.mark.parametrize("lambdas", [(1, 1), (1.2, 0.9), (0.5, 1.5)])
@pytest.mark.parametrize("form", ["paper", "code"])
def test_printed_and_coded_form(source: str, lambdas: tuple[float, float], form: str) -> None:
    key = f"{source}_l{lambdas[0]}_l{lambdas[1]}" + ("_codeform" if form == "code" else "")
    theta = torch.tensor(PAPER["theta"])
    phi = theta if source == "same" else torch.tensor(PAPER["phi"])
    logits, y = torch.tensor(PAPER["logits"]).requires_grad_(), torch.tensor(PAPER["labels"])
    adjusted = bagmar_logits(
        logits,
        y,
        theta=theta,
        phi=phi,
        lambda1=lambdas[0],
        lambda2=lambdas[1],
        eps=float(PAPER["eps"]),
        form=form,
    )
    value = torch.nn.functional.cross_entropy(adjusted, y)
    value.backward()
    close(value, PAPER[key + "_loss"], 1e-12)
    close(logits.grad, PAPER[key + "_grad"], 1e-12)
    # and through the loss, with that state
    loss = build("bagmar", class_counts=np.ones(6), lambda1=lambdas[0], lambda2=lambdas[1], form=form)
    loss.totals[0], loss.totals[1] = theta, phi
    again = logits.detach().clone().requires_grad_()
    value = loss(again, y)
    value.backward()
    close(value, PAPER[key + "_loss"], 1e-12)
    close(again.grad, PAPER[key + "_grad"], 1e-12)
