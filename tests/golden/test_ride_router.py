"""Expert assignment: gates, targets, loss, gradients and dynamic evaluation against the released code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ride_nets import build, fill, images, official_name
from torch import nn

from lt.losses.experts import router_loss, router_targets
from lt.models.convert_ride import from_official

HERE = Path(__file__).parent / "ride"
DATA, INFO = np.load(HERE / "ea_router.npz"), json.loads((HERE / "ea_router.json").read_text())
NAMES = [pytest.param(n, marks=pytest.mark.slow if n.startswith(("r50", "rx50")) else ()) for n in INFO]


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[str, dict, nn.Module, torch.Tensor]:
    info = INFO[request.param]
    net = fill(build(info["model"], info["kwargs"]))
    override = from_official({k: torch.tensor(v) for k, v in info["override"].items()})
    net.load_state_dict(net.state_dict() | override)
    return request.param, info, net, images(info["input_seed"], info["input_shape"])


def test_what_learns(case: tuple) -> None:
    _, info, net, _ = case
    net.train()
    learns = [official_name(n, 3) for n, p in net.named_parameters() if p.requires_grad]
    assert sorted(learns) == sorted(info["trainable"])
    assert sum(p.numel() for p in net.parameters()) == info["n_params"]
    assert len(net.state_dict()) == info["n_tensors"]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.training is not info["bn_eval_in_train"] for m in norms)


def test_dynamic_evaluation(case: tuple) -> None:
    name, _, net, x = case
    seen: list[torch.Tensor] = []
    hook = net.router.gate.register_forward_hook(lambda module, args, out: seen.append(out[:, 0]))
    with torch.no_grad():
        logits, used = net.eval().dynamic(x)
        assert torch.equal(net(x), logits)
    hook.remove()
    np.testing.assert_array_equal(used.numpy(), DATA[f"{name}/eval/num_experts"][:, 0])
    assert len(set(used.tolist())) > 1
    theirs = DATA[f"{name}/eval/output"]
    np.testing.assert_allclose(logits.numpy()[:, : theirs.shape[1]], theirs, rtol=0, atol=1e-4)
    for i in range(2):
        np.testing.assert_allclose(seen[i].numpy(), DATA[f"{name}/eval/router_logit_{i}"], rtol=0, atol=1e-4)


def test_training_step(case: tuple) -> None:
    name, info, net, x = case
    net.train()
    net.zero_grad()
    target = torch.from_numpy(DATA[f"{name}/train/target"])
    sums, gates = net(x, streams=True)
    wanted = router_targets(sums, target)
    loss = router_loss(gates, wanted, pos_weight=info["kwargs"]["pos_weight"])
    loss.backward()
    np.testing.assert_array_equal(wanted.numpy(), DATA[f"{name}/train/help_target"])
    assert loss.item() == pytest.approx(float(DATA[f"{name}/train/loss"][0]), rel=1e-4)
    theirs = DATA[f"{name}/train/output"]
    output = (sums[:, -1] / 3).numpy()
    np.testing.assert_allclose(output[:, : theirs.shape[1]], theirs, rtol=0, atol=1e-4)
    for i in range(2):
        ours = gates[:, i].detach().numpy()
        np.testing.assert_allclose(ours, DATA[f"{name}/train/router_logit_{i}"], rtol=0, atol=1e-4)
    for n, p in net.named_parameters():
        if not p.requires_grad:
            assert p.grad is None
            continue
        key = official_name(n, 3)
        assert float(p.grad.double().norm()) == pytest.approx(float(DATA[f"{name}/train/grad_norm/{key}"]), rel=1e-4)
        if f"{name}/train/grad/{key}" in DATA:
            theirs = DATA[f"{name}/train/grad/{key}"]
            scale = 1e-4 * float(np.abs(theirs).max())
            np.testing.assert_allclose(p.grad.numpy(), theirs, rtol=1e-4, atol=scale)
        else:
            theirs = DATA[f"{name}/train/grad_first_row/{key}"]
            scale = 1e-4 * float(np.abs(theirs).max())
            np.testing.assert_allclose(p.grad.numpy()[0], theirs, rtol=1e-4, atol=scale)
