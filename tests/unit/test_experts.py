"""RIDE networks, their router and their losses: what holds for any weights and counts."""

import numpy as np
import pytest
import torch
from torch import nn

from lt import losses, models
from lt.errors import UserError
from lt.losses import experts as ride_losses
from lt.losses.experts import Ride, over_streams, router_loss, router_targets
from lt.models import experts
from lt.models.convert_ride import from_official, to_official

COUNTS = np.array([500, 60, 7, 1])


def images(count: int = 4, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def net(arch: str = "ride_resnet8", classes: int = 4, **options: object) -> nn.Module:
    return models.build(arch, classes, seed=0, **options).eval()


def routed(**options: object) -> nn.Module:
    return net(router=True, **({"top_k": 2} | options))


@pytest.mark.parametrize(
    ("arch", "side", "dim"),
    [("ride_resnet8", 8, 48), ("ride_resnet8", 28, 48), ("ride_resnet32", 32, 48), ("ride_resnet10", 64, 384)],
)
def test_prediction_is_the_mean_of_the_experts(arch: str, side: int, dim: int) -> None:
    model, x = net(arch), images(2, side)
    with torch.no_grad():
        features = model.features(x)
        logits = model.expert_logits(x)
        assert features.shape == (3, 2, dim)
        assert logits.shape == (2, 3, 4)
        assert model.feature_dim == dim
        torch.testing.assert_close(model(x), logits.mean(1))
        torch.testing.assert_close(model.classify(features), model(x))
    assert logits.abs().max() <= 30.0001  # cosine classifiers of scale 30
    assert not torch.equal(logits[:, 0], logits[:, 1])


def test_widths_and_heads() -> None:
    assert net(reduced=False).feature_dim == 64
    assert net(widths=(4, 6)).feature_dim == 6
    linear = net(head="linear")
    assert linear.experts[0].fc.weight.shape == (4, 48)
    assert linear.experts[0].fc.bias is not None
    assert net().experts[0].fc.weight.shape == (48, 4)
    assert net(in_channels=1)(images()[:, :1]).shape == (4, 4)


def test_initial_weights() -> None:
    weight = net("ride_resnet32", add_bt=1, router=True, top_k=2).experts[1].layer3[2].conv1.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (48 * 9)) ** 0.5, rel=0.05)
    model = net("ride_resnet32", add_bt=1)
    assert float(model.batchformer.encoder.linear1.weight.detach().std()) == pytest.approx((2 / 48) ** 0.5, rel=0.1)
    conv = net("ride_resnet10").layer2[0].conv2.weight
    assert float(conv.detach().std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    norms = model.experts[0].fc.weight.norm(dim=0)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_subsets_of_experts() -> None:
    x, whole = images(), net()
    part = net(use_experts="0,2")
    random = net(use_experts="rand")
    with torch.no_grad():
        logits = whole.expert_logits(x)
        torch.testing.assert_close(part.expert_logits(x), logits[:, [0, 2]])
        torch.testing.assert_close(part(x), logits[:, [0, 2]].mean(1))
        seen = {tuple(random.active()) for _ in range(50)}
        assert random.expert_logits(x).shape == (4, 2, 4)
    assert seen == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert": 3}, "no option 'expert'; did you mean 'experts'"),
        ({"experts": 0}, "at least 1"),
        ({"use_experts": "0,5"}, "from 0 to 2"),
        ({"use_experts": "some"}, "'0,2' or 'rand'"),
        ({"use_experts": "rand", "experts": 1}, "at least 2"),
        ({"widths": (5, 6)}, "two even numbers"),
        ({"router": True}, "top_k must be between 1 and the 4 classes, not 30"),
        ({"router": True, "top_k": 2, "use_experts": "0"}, "order of the experts is fixed"),
        ({"top_k": 2}, "no option 'top_k'"),
    ],
)
def test_mistakes(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        net(**options)


@pytest.mark.parametrize("share_gate", [True, False])
def test_released_names_and_back(share_gate: bool) -> None:
    state = routed(add_bt=12, share_gate=share_gate, head="linear").state_dict()
    back = from_official(to_official(state))
    assert list(back) == list(state)
    theirs = to_official(state)
    assert "backbone.layer3s.2.0.conv1.weight" in theirs
    assert "backbone.linears.1.bias" in theirs
    assert "backbone.encoder_layers.layers.7.norm2.bias" in theirs
    assert ("backbone.expert_help_pred_fc.weight" in theirs) == share_gate
    assert ("backbone.expert_help_pred_fcs.1.weight" in theirs) != share_gate
    with pytest.raises(UserError, match="names that start with"):
        from_official({"conv1.weight": torch.zeros(1)})


# --- router


def gate_everywhere(model: nn.Module, bias: float) -> None:
    model.router.gate.weight.data.zero_()
    model.router.gate.bias.data.fill_(bias)


def test_router_only_adds_and_only_it_learns() -> None:
    model, first = routed(), net()
    added = set(model.state_dict()) - set(first.state_dict())
    assert added and all(n.startswith("router.") for n in added)
    assert not set(first.state_dict()) - set(model.state_dict())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == added
    before = {n: b.clone() for n, b in model.named_buffers()}
    model.train()
    sums, gates = model(images(), streams=True)
    router_loss(gates, router_targets(sums, torch.tensor([0, 1, 2, 3]))).backward()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize(("bias", "used"), [(-50.0, 1), (50.0, 3)])
def test_forced_decisions(bias: float, used: int) -> None:
    model, x = routed(), images()
    gate_everywhere(model, bias)
    with torch.no_grad():
        logits, count = model.dynamic(x)
        each = model.expert_logits(x)
    assert count.tolist() == [used] * 4
    torch.testing.assert_close(logits, each[:, :used].mean(1))


def test_images_decide_for_themselves() -> None:
    """The number of experts of an image does not depend on the others, and between 1 and E are used."""
    model, x = routed(), images(32)
    with torch.no_grad():
        _, gates = model.route(x)
        model.router.gate.bias.data -= gates[:, 0].median()
        logits, used = model.dynamic(x)
        for i in range(0, 32, 7):
            alone, one = model.dynamic(x[i : i + 1])
            assert int(one) == int(used[i])
            torch.testing.assert_close(alone[0], logits[i], rtol=1e-4, atol=1e-4)
        each = model.expert_logits(x)
    assert len(used.unique()) > 1 and used.min() == 1 and used.max() <= 3
    for i in range(32):
        torch.testing.assert_close(logits[i], each[i, : int(used[i])].mean(0))


def test_dead_features_do_not_make_nan() -> None:
    model = routed()
    for expert in model.experts:
        for parameter in expert.layer3.parameters():
            parameter.data.zero_()
    with torch.no_grad():
        logits, used = model.dynamic(torch.zeros(2, 3, 8, 8))
    assert logits.isfinite().all() and used.min() >= 1


def test_router_targets_are_the_definition() -> None:
    r = np.random.RandomState(0)
    sums, target = torch.from_numpy(r.randn(200, 4, 3)), torch.from_numpy(r.randint(0, 3, 200))
    wanted = router_targets(sums, target)
    right = (sums.argmax(2) == target[:, None]).numpy()
    for b in range(200):
        for i in range(3):
            assert bool(wanted[b, i]) == (not right[b, i] and right[b, i + 1 :].any())


def test_router_loss_is_the_mean_of_the_gates() -> None:
    gates = torch.tensor([[0.3, -2.0], [1.5, 0.1]])
    wanted = torch.tensor([[True, False], [False, True]])
    p = gates.sigmoid()
    terms = torch.where(wanted, -100 * p.log(), -(1 - p).log())
    assert router_loss(gates, wanted).item() == pytest.approx(float(terms.mean(0).mean()), rel=1e-5)


def test_tau_normalisation() -> None:
    state = net(head="linear").state_dict()
    state["experts.0.fc.weight"][0] = 0
    done = experts.tau_normalise(state, 1.0)
    assert float(done["experts.1.fc.bias"].abs().sum()) == 0
    norms = done["experts.0.fc.weight"].norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert done["conv1.weight"] is state["conv1.weight"]
    same = experts.tau_normalise(state, 0.0)
    torch.testing.assert_close(same["experts.2.fc.weight"], state["experts.2.fc.weight"])
    with pytest.raises(UserError, match="cosine classifier"):
        experts.tau_normalise(net().state_dict(), 0.5)
    with pytest.raises(UserError, match="no classifier"):
        experts.tau_normalise({"conv1.weight": torch.zeros(1)}, 0.5)


# --- losses


def batch(count: int = 6, e: int = 3, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    r = np.random.RandomState(count)
    return torch.from_numpy(r.randn(count, e, 4) * scale), torch.from_numpy(r.randint(0, 4, count))


def test_weights_switch_after_the_named_epoch() -> None:
    loss, (logits, target) = Ride(class_counts=COUNTS, reweight_epoch=5), batch()
    values = []
    for epoch in (0, 4, 5, 9, 4):
        loss.set_epoch(epoch)
        values.append(loss(logits, target).item())
    assert values[0] == values[1] == values[4]
    assert values[2] == values[3] != values[0]


@pytest.mark.parametrize("options", [{"reweight": False}, {"reweight_epoch": -1}, {"reweight_epoch": None}])
def test_never_reweighted(options: dict) -> None:
    logits, target = batch()
    loss = Ride(class_counts=COUNTS, **({"reweight_epoch": 0} | options))
    start = loss(logits, target)
    loss.set_epoch(1000)
    assert torch.equal(loss(logits, target), start)


def test_without_class_counts() -> None:
    """No margins and no weights: plain cross-entropy of every expert plus the diversity term."""
    logits, target = batch()
    loss = Ride(class_counts=None, diversity_factor=-0.2, reweight_epoch=0)
    plain = sum(nn.functional.cross_entropy(z, target) for z in logits.unbind(1))
    mean = logits.mean(1).softmax(1)
    kl = sum((mean * (mean.log() - z.log_softmax(1))).sum(1).mean() for z in logits.unbind(1))
    assert loss(logits, target).item() == pytest.approx((plain - 0.2 * kl).item(), rel=1e-9)


def test_diversity_pushes_away_from_the_mean() -> None:
    """With a negative factor a gradient step raises the divergence; the mean itself gets no gradient from it."""
    logits, target = batch()
    logits = (0.1 * logits).requires_grad_()
    only = Ride(class_counts=COUNTS, diversity_factor=-1.0, base_loss_factor=0.0)
    only(logits, target).backward()
    with torch.no_grad():
        moved = logits - 0.1 * logits.grad
        assert only(moved, target) < only(logits, target) < 0


def test_factor_zero_takes_the_mean_logits() -> None:
    logits, target = batch()
    together = Ride(class_counts=COUNTS, diversity_factor=0)
    mean = logits.mean(1, keepdim=True).expand_as(logits)
    apart = Ride(class_counts=COUNTS, diversity_factor=0, collaborative_when_zero=False)
    assert together(logits, target).item() == pytest.approx(apart(mean, target).item(), rel=1e-12)
    assert together(logits, target).item() != pytest.approx(apart(logits, target).item(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_cast_up(dtype: torch.dtype) -> None:
    logits, target = batch()
    loss = Ride(class_counts=COUNTS)
    value = loss(logits.to(dtype), target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(logits.to(dtype).float(), target).item(), rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(logits.float(), target), loss(logits.float(), target).float())


@pytest.mark.parametrize("epoch", [0, 10])
@pytest.mark.parametrize("scale", [1e-6, 1e4])
@pytest.mark.parametrize(("count", "e"), [(1, 1), (1, 3), (5, 6)])
def test_finite_on_hostile_inputs(epoch: int, scale: float, count: int, e: int) -> None:
    logits, target = batch(count, e, scale)
    logits = logits.float().requires_grad_()
    loss = Ride(class_counts=COUNTS, reweight_epoch=3)
    loss.set_epoch(epoch)
    value = loss(logits, target, torch.zeros(count, 4))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_one_class() -> None:
    loss = Ride(class_counts=[7], reweight_epoch=0)
    assert loss(torch.randn(3, 2, 1), torch.zeros(3, dtype=torch.int64)).item() == pytest.approx(0, abs=1e-6)


def test_loss_mistakes() -> None:
    logits, target = batch()
    with pytest.raises(UserError, match=r"without training images \(class 2\)"):
        Ride(class_counts=[5, 3, 0, 1])
    with pytest.raises(UserError, match="3 class counts for 4 classes"):
        Ride(class_counts=[5, 3, 1])(logits, target)
    with pytest.raises(UserError, match="teacher logits"):
        Ride(class_counts=COUNTS)(logits, target, torch.zeros(6, 3))
    with pytest.raises(UserError, match=r"\[batch, experts, classes\]"):
        Ride(class_counts=COUNTS)(logits[None], target)
    with pytest.raises(UserError, match="2 streams"):
        over_streams(Ride(class_counts=COUNTS), (logits, logits), target, weights=(1.0,))


def test_registry_has_every_loss_of_the_module() -> None:
    for name, factory in ride_losses.LOSSES.items():
        assert losses.LOSSES.get(name, factory) is factory


def test_sum_over_streams() -> None:
    logits, target = batch()
    loss = Ride(class_counts=COUNTS)
    both = over_streams(loss, (logits, 2 * logits), target, weights=(0.01, 1.01))
    assert both.item() == pytest.approx((0.01 * loss(logits, target) + 1.01 * loss(2 * logits, target)).item())


@pytest.mark.slow
def test_digits_from_experts_to_router() -> None:
    """Three experts learn digits; the router then spends 1 to 3 of them, and some images get fewer than all."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.from_numpy(data.images.astype(np.float32) / 8 - 1)[:, None].expand(-1, 3, -1, -1).contiguous()
    y = torch.from_numpy(data.target)
    keep = torch.cat([torch.where(y[:1200] == c)[0][: int(100 * 0.6**c) + 2] for c in range(10)])
    counts = torch.bincount(y[keep], minlength=10)
    model = models.build("ride_resnet8", 10, seed=0)
    train(model, Ride(class_counts=counts, diversity_factor=-0.2, reweight_epoch=12), x[keep], y[keep], epochs=16)
    second = models.build("ride_resnet8", 10, seed=0, router=True, top_k=5)
    second.load_state_dict(second.state_dict() | model.state_dict())
    train(second, None, x[keep], y[keep], epochs=5)
    with torch.no_grad():
        whole = (model.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean()
        logits, used = second.eval().dynamic(x[1200:])
    assert whole > 0.5
    assert (logits.argmax(1) == y[1200:]).float().mean() > whole - 0.1
    assert len(used.unique()) > 1 and 1 <= used.float().mean() < 3


def train(model: nn.Module, loss: Ride | None, x: torch.Tensor, y: torch.Tensor, *, epochs: int) -> None:
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learns, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch in range(epochs):
        model.train()
        if loss is not None:
            loss.set_epoch(epoch)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(32):
            streams = model(x[rows], streams=True)
            if loss is None:
                sums, gates = streams
                value = router_loss(gates, router_targets(sums, y[rows]), pos_weight=100.0)
            else:
                value = loss(streams[0], y[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
