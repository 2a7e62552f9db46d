"""One device in place of several."""

import copy

import pytest
import torch
from torch import nn

from lt import models
from lt.errors import UserError
from lt.models.batch_groups import group_batch_norms


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [8, 10, 3])
def test_groups_are_what_devices_were(count: int) -> None:
    """Slices of 4 through copies of the network: equal outputs, averaged gradients, the first copy's statistics."""
    net = models.build("ride_resnet8", 5, seed=0, add_bt=33, encoder_dropout=0.0, group_size=4).train()
    slices = images(count).split(4)
    copies = [copy.deepcopy(net) for _ in slices]
    apart = [torch.stack(c(x, streams=True)) for c, x in zip(copies, slices, strict=True)]
    sum(part.square().sum() for part in apart).backward()
    group_batch_norms(net, 4)
    together = torch.stack(net(images(count), streams=True))
    together.square().sum().backward()
    torch.testing.assert_close(together, torch.cat(apart, dim=1), rtol=1e-4, atol=1e-4)
    for name, parameter in net.named_parameters():
        total = sum(c.get_parameter(name).grad for c in copies)
        scale = float(total.abs().max())
        torch.testing.assert_close(parameter.grad, total, rtol=1e-3, atol=1e-4 * max(scale, 1.0))
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, copies[0].get_buffer(name))


def test_names_and_eval_are_untouched() -> None:
    net = models.build("resnet8", 5, seed=0).eval()
    grouped = group_batch_norms(copy.deepcopy(net), 2)
    assert list(grouped.state_dict()) == list(net.state_dict())
    x = images(6)
    assert torch.equal(grouped(x), net(x))
    assert not torch.allclose(grouped.train()(x), net.train()(x))


def test_mistakes() -> None:
    with pytest.raises(UserError, match="2 or more"):
        group_batch_norms(nn.BatchNorm2d(3), 1)
