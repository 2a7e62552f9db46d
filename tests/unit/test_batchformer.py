"""BatchFormer: who sees whom, and when."""

import os
import socket

import pytest
import torch
from torch import nn

from lt import models
from lt.errors import UserError
from lt.models.batchformer import BatchFormer, encode_groups, stream_weights, with_batchformer


def ride(**options: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"add_bt": 1, "experts": 2, "encoder_dropout": 0.0} | options
    return models.build("ride_resnet8", 5, **options)


def without_batch_statistics(net: nn.Module) -> nn.Module:
    """Training mode, but batch normalisation does not couple the samples."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return net


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("add_bt", [1, 12, 13, 32, 33])
def test_encoder_gets_gradient_from_every_stream(add_bt: int) -> None:
    net = ride(add_bt=add_bt).train()
    streams = net(images(), streams=True)
    assert len(streams) == (2 if add_bt in (32, 33) else 1)
    assert all(s.shape == (6, 2, 5) for s in streams)
    streams[0].square().sum().backward()
    for name, parameter in net.batchformer.named_parameters():
        if not name.endswith("in_proj_bias"):  # its key part cancels in the softmax
            assert parameter.grad.abs().sum() > 0, name
    assert net.conv1.weight.grad.abs().sum() > 0


def test_other_samples_matter_in_training_only() -> None:
    net, x = without_batch_statistics(ride()), images()
    moved = torch.cat([x[:1], x[1:] + 1])
    with torch.no_grad():
        assert (net(x)[0] - net(moved)[0]).abs().max() > 1e-3
        plain = without_batch_statistics(ride(add_bt=0))
        torch.testing.assert_close(plain(x)[0], plain(moved)[0])
        net.eval()
        torch.testing.assert_close(net(x)[0], net(moved)[0])


def test_order_of_the_batch_does_not_matter() -> None:
    net, x = without_batch_statistics(ride()), images()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        torch.testing.assert_close(net(x[order]), net(x)[order], rtol=1e-4, atol=1e-5)


def test_bypass_stream_does_not_see_the_encoder() -> None:
    net, x = without_batch_statistics(ride(add_bt=33)), images()
    with torch.no_grad():
        _, plain = net(x, streams=True)
        torch.testing.assert_close(plain, net.eval().expert_logits(x))


@pytest.mark.parametrize(("count", "size"), [(8, 4), (9, 4), (5, 8), (3, 1), (1, 4)])
def test_groups_do_not_see_each_other(count: int, size: int) -> None:
    torch.manual_seed(0)
    whole = BatchFormer(12, heads=3, dropout=0.0).train()
    grouped = BatchFormer(12, heads=3, dropout=0.0, group_size=size).train()
    grouped.load_state_dict(whole.state_dict())
    x = torch.randn(2, count, 12)
    with torch.no_grad():
        together = grouped(x)
        apart = torch.cat([whole(x[:, i : i + size]) for i in range(0, count, size)], dim=1)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


def test_group_size_is_independent_of_the_global_batch() -> None:
    """The same images give the same training logits, whether 4 or 8 of them make up the batch."""
    net, x = without_batch_statistics(ride(group_size=4)), images(8)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:4], net(x[:4]), rtol=1e-4, atol=1e-5)


def test_dropout_draws_in_training() -> None:
    former = BatchFormer(16).train()
    x = torch.randn(4, 16)
    assert not torch.equal(former(x), former(x))
    assert former.eval()(x) is x


def test_two_and_three_dimensions_agree() -> None:
    former = BatchFormer(16, dropout=0.0).train()
    x = torch.randn(3, 4, 16)
    torch.testing.assert_close(former(x)[1], former(x[1]))
    assert encode_groups(lambda rows: rows, x, 2).equal(x)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="add_bt 22"):
        ride(add_bt=22)
    with pytest.raises(UserError, match="unknown add_bt 5; known: 0, 1, 12"):
        ride(add_bt=5)
    with pytest.raises(UserError, match="group_size"):
        ride(group_size=0)
    with pytest.raises(UserError, match="divided among 4 heads"):
        BatchFormer(130)


def test_weights_of_the_streams() -> None:
    assert stream_weights(1, cifar=True) == (1.0,)
    assert stream_weights(33, cifar=True) == stream_weights(32, cifar=False) == (1.0, 1.0)
    # 0.01 (encoded + plain) + plain
    assert stream_weights(32, cifar=True) == pytest.approx((0.01, 1.01))


def test_shared_classifier_on_a_plain_network() -> None:
    net = models.build("resnet8", 5, seed=0)
    names = set(net.state_dict())
    net = with_batchformer(net, dropout=0.0)
    assert {n for n in net.state_dict() if not n.startswith("batchformer.")} == names
    x = images(4)
    logits = without_batch_statistics(net)(x)
    assert logits.shape == (8, 5)
    torch.testing.assert_close(logits[4:], models.build("resnet8", 5, seed=0).eval()(x))
    torch.testing.assert_close(net.eval()(x), logits[4:])
    logits[:4].square().sum().backward()
    assert net.batchformer.encoder.linear1.weight.grad.abs().sum() > 0


def _rank(rank: int, port: int, sizes: tuple[int, ...], queue: torch.multiprocessing.Queue) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=len(sizes))
    former, x, start = make(True), features(sum(sizes)), sum(sizes[:rank])
    mine = x[start : start + sizes[rank]].clone().requires_grad_()
    out = former(mine)
    out.pow(3).sum().backward()
    queue.put((rank, out.detach().numpy(), mine.grad.numpy(), former.encoder.linear1.weight.grad.numpy()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def make(across: bool) -> BatchFormer:
    torch.manual_seed(0)
    return BatchFormer(8, dropout=0.0, group_size=4, across_ranks=across).train()


def features(count: int) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
def test_a_group_across_ranks_equals_one_process() -> None:
    sizes = (3, 4)  # the group of 4 spans both, and the last one is ragged
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_rank, args=(r, port, sizes, queue)) for r in range(2)]
    for worker in workers:
        worker.start()
    found = {rank: rest for rank, *rest in (queue.get(timeout=120) for _ in workers)}
    for worker in workers:
        worker.join()
    former, x = make(False), features(sum(sizes)).requires_grad_()
    out = former(x)
    out.pow(3).sum().backward()
    joined = [torch.cat([torch.from_numpy(found[r][i]) for r in range(2)]) for i in range(2)]
    torch.testing.assert_close(joined[0], out.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(joined[1], x.grad, rtol=1e-4, atol=1e-5)
    weight = torch.from_numpy(found[0][2] + found[1][2])
    torch.testing.assert_close(weight, former.encoder.linear1.weight.grad, rtol=1e-4, atol=1e-5)
