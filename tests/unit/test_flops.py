"""Counting multiply-accumulates."""

import pytest
import torch
from torch import nn

from lt import models
from lt.errors import UserError
from lt.flops import by_experts, by_experts_spent, count, expected, gmacs

SIZE = (3, 32, 32)


def test_against_torchs_own_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = models.build("ride_resnet8", 10, experts=2).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, *SIZE))
    counted = count(net, SIZE)
    assert counter.get_total_flops() == 2 * counted.macs  # two floating-point operations a multiply-accumulate


def test_groups_and_several_vectors() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.Flatten(2), nn.Linear(16, 5))
    counted = count(net, (4, 4, 4))
    assert counted.conv == 8 * 16 * 2 * 9
    assert counted.linear == 8 * 16 * 5


def test_nothing_is_left_behind() -> None:
    net = models.build("ride_resnet8", 10).train()
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    modes = [m.training for m in net.modules()]
    count(net, SIZE)
    assert modes == [m.training for m in net.modules()]
    assert all(torch.equal(b, buffers[n]) for n, b in net.named_buffers())
    assert not any(m._forward_hooks for m in net.modules())


def test_batchformer_costs_nothing_at_test_time() -> None:
    plain = models.build("ride_resnet8", 10)
    assert count(models.build("ride_resnet8", 10, add_bt=1).train(), SIZE) == count(plain, SIZE)


def test_classifiers_beside_the_published_way() -> None:
    ours = gmacs(models.build("ride_resnet8", 10), SIZE)
    assert ours["with_classifiers"] - ours["published"] == pytest.approx(3 * (48 * 10 + 48) / 1e9)
    linear = gmacs(models.build("ride_resnet8", 10, head="linear"), SIZE)
    assert linear["with_classifiers"] == linear["published"]


def test_a_routed_network_costs_what_its_images_need() -> None:
    net = models.build("ride_resnet8", 10, router=True, top_k=5)
    first, _, last = by_experts(net, SIZE)
    stopped, _, ran = by_experts_spent(net, SIZE)
    gate = 48 * 16 + 16 + 5
    assert stopped.linear - first.linear == gate
    assert ran == last
    cheap, dear = (gmacs(net, SIZE, shares=s)["macs"] for s in ([1, 0, 0], [0, 0, 1]))
    assert cheap == pytest.approx(stopped.macs / 1e9)
    assert gmacs(net, SIZE, shares=[0.5, 0, 0.5])["macs"] == pytest.approx((cheap + dear) / 2)


def test_mistakes() -> None:
    net = models.build("ride_resnet8", 10, router=True, top_k=5)
    with pytest.raises(UserError, match="give their shares"):
        gmacs(net, SIZE)
    with pytest.raises(UserError, match="add up to 1"):
        expected([1, 2], [40, 60])
    with pytest.raises(UserError, match="2 shares"):
        expected([1, 2], [1.0])
    with pytest.raises(UserError, match="channels, height, width"):
        count(net, (32, 32))
