"""Optimiser, rates, parameter groups and whole training steps of the BNS + IP-DPP code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from weight_rule import container

from lt import models, optim
from lt.losses import contrastive
from lt.models import convert

DATA = Path(__file__).parent / "ipdpp"
SCHEDULE, LARS, STEPS = (np.load(DATA / f"{name}.npz") for name in ("schedule", "lars", "steps"))
GROUPS = json.loads((DATA / "param_groups.json").read_text())
TENSORS = json.loads((DATA / "models.json").read_text())


@pytest.mark.parametrize("case", sorted(n[: -len("_cfg")] for n in SCHEDULE.files if n.endswith("_cfg")))
def test_schedule(case: str) -> None:
    lr, min_lr, warmup, epochs, length = SCHEDULE[f"{case}_cfg"].tolist()
    length = int(length)
    rate = optim.schedule("mae", lr=lr, epochs=int(epochs), steps_per_epoch=length, warmup_epochs=warmup, min_lr=min_lr)
    at = SCHEDULE[f"{case}_epoch"]
    found = [rate(int(e), round((e - int(e)) * length)) for e in at]
    assert np.abs(found - SCHEDULE[f"{case}_lr"]).max() <= 1e-15
    assert np.abs(np.array(found) * 0.25 - SCHEDULE[f"{case}_lr_scaled025"]).max() <= 1e-15


def test_lars() -> None:
    lr, decay, momentum, trust = LARS["cfg"].tolist()
    params = {n: torch.nn.Parameter(torch.from_numpy(LARS[f"p0_{n}"].copy())) for n in "wcbz"}
    groups = [{"params": list(params.values()), "weight_decay": decay}]
    optimizer = optim.optimizer("lars", groups, momentum=momentum, trust=trust)
    optimizer.param_groups[0]["lr"] = lr
    for step in range(4):
        for name, p in params.items():
            p.grad = torch.from_numpy(LARS[f"g{step}_{name}"].copy())
        optimizer.step()
        for name, p in params.items():
            expected = LARS[f"p{step + 1}_{name}"]
            assert np.abs(p.detach().numpy() - expected).max() <= 1e-12 * max(1, np.abs(expected).max())


def network(kind: str) -> torch.nn.Module:
    table = TENSORS["r18_simclr" if kind == "pretrain" else "r18_c10_linmodel"]["tensors"]
    head = {"head": "projector"} if kind == "pretrain" else {}
    model = models.build("resnet18_cifar", 128 if kind == "pretrain" else 10, **head)
    convert.load_state(model, convert.LAYOUTS["ipdpp"]({"model": container(table)}))
    if kind == "lineprob":
        models.freeze(model, train="head")
    return model


def ours(name: str) -> str:
    return next(iter(convert.LAYOUTS["ipdpp"]({"model": {name: torch.zeros(1)}})))


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "lineprob"])
def test_parameter_groups(kind: str) -> None:
    free, decayed = optim.param_groups(network(kind), weight_decay=0.05, rule="no_decay_1d")
    golden = GROUPS[f"{kind}_r18"]
    assert (free["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    assert free["names"] == [ours(name) for name in golden["no_decay"]]
    assert decayed["names"] == [ours(name) for name in golden["decay"]]


def images(name: str, step: int) -> torch.Tensor:
    return torch.from_numpy(STEPS[name][step]).float() / 255


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "lineprob"])
def test_three_steps(kind: str) -> None:
    prefix = "pre" if kind == "pretrain" else kind
    lr, _, warmup, epochs, length = STEPS["pre_cfg"].tolist() if prefix == "pre" else (2.5e-4, 0, 1, 10, 4)
    rate = optim.schedule("mae", lr=lr, epochs=int(epochs), steps_per_epoch=int(length), warmup_epochs=warmup)
    model = network(kind).train()  # the released probe leaves BN in train mode
    groups = optim.param_groups(model, weight_decay=0.05, rule="no_decay_1d")
    optimizer = optim.optimizer("adamw", groups, betas=(0.9, 0.95))
    loss_of = contrastive.build("bns", tau=0.5)
    for step in range(3):
        labels = torch.from_numpy(STEPS[f"{prefix}_y"][step])
        if kind == "pretrain":
            loss = loss_of(model(images("pre_xi", step)), model(images("pre_xj", step)), labels)
        else:
            loss = F.cross_entropy(model(images(f"{kind}_x", step)), labels)
        optimizer.zero_grad()
        loss.backward()
        assert loss.item() == pytest.approx(float(STEPS[f"{prefix}_losses"][step]), abs=1e-4)
        if kind == "pretrain":
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
            assert norm == pytest.approx(float(STEPS["pre_gradnorm"][step]), rel=5e-4)
        for group in optimizer.param_groups:
            group["lr"] = rate(0, step) * group["lr_scale"]
            assert group["lr"] == pytest.approx(float(STEPS[f"{prefix}_lrs"][step]), abs=1e-15)
        optimizer.step()
    norms = [v.norm().item() for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")]
    np.testing.assert_allclose(norms, STEPS[f"{prefix}_state_norms"], rtol=5e-4)
    mean = STEPS[f"{prefix}_bn1_running_mean"]
    np.testing.assert_allclose(model.bn1.running_mean, mean, rtol=5e-4, atol=5e-4 * np.abs(mean).max())
    if kind != "pretrain":
        with torch.no_grad():
            logits = model.eval()(images(f"{kind}_x", 0))
        np.testing.assert_allclose(logits, STEPS[f"{kind}_eval_logits_after"], rtol=0, atol=1e-5)
