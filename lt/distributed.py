"""The only place that knows about ranks: torchrun starts them, gloo on CPU, nccl on GPU."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from lt.errors import EXIT_INTERRUPTED, EXIT_USER


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


@contextlib.contextmanager
def ranks() -> Iterator[torch.device]:
    """Join the group that torchrun announced, if it did; yields this rank's device."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def launch(arguments: list[str]) -> int:
    """torchrun, which itself exits with 1 whatever its ranks exit with: 75 must stay "run the same command again"."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(arguments)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException:  # its ranks have got the signal, too, and were given time to save
        return EXIT_INTERRUPTED
    return 0


def wrap(model: nn.Module, device: torch.device, *, static: bool = False) -> nn.Module:
    """DDP when there are ranks; the model itself otherwise."""
    if world() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=ids, gradient_as_bucket_view=True, static_graph=static, broadcast_buffers=False
    )


def no_sync(network: nn.Module, skip: bool) -> contextlib.AbstractContextManager:
    """Leave out the gradient reduction on all but the last micro-batch of a step."""
    return network.no_sync() if skip and hasattr(network, "no_sync") else contextlib.nullcontext()


def mean(value: torch.Tensor) -> torch.Tensor:
    """The mean over ranks."""
    if world() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world()


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum over ranks."""
    if world() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def largest_(value: torch.Tensor) -> None:
    """The largest over ranks, in place; nobody waits for it."""
    if world() > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)


def agree(*flags: bool, device: torch.device) -> tuple[bool, ...]:
    """Each flag, true on every rank if it is true on one; one reduction for all of them."""
    if world() == 1:
        return flags
    return tuple((total(torch.tensor(flags, dtype=torch.float32, device=device)) > 0).tolist())


def same_buffers(model: nn.Module) -> None:
    """Rank 0's buffers on every rank: running statistics are gathered apart, but one network is judged."""
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


@contextlib.contextmanager
def main_holds(context: contextlib.AbstractContextManager) -> Iterator[Any]:
    """Enter a context on rank 0; the others wait for it, and leave without a word where it is refused."""
    if world() == 1:
        with context as held:
            yield held
        return
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if not is_main():
        if agree(False, device=device)[0]:
            sys.exit(EXIT_USER)
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(context)
        except BaseException:
            agree(True, device=device)
            raise
        agree(False, device=device)
        yield held


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate rows of all ranks, which may hold different numbers of them."""
    if world() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    longest = int(max(c.item() for c in counts))
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.cat([p[: int(c)] for p, c in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, start: int) -> torch.Tensor:
        ctx.mine = slice(start, start + len(rows))
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return total(grad.contiguous())[ctx.mine], None


def gather_grad(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of all ranks in their order, and where this rank's start.

    Gradients flow back to their ranks, summed over the losses of all: where each rank has the whole batch's loss,
    the mean that DDP takes is that loss's own gradient.
    """
    if world() == 1:
        return rows, 0
    sizes = gather_rows(torch.tensor([len(rows)], device=rows.device))
    start = int(sizes[: rank()].sum())
    return _Gather.apply(rows.contiguous(), start), start


def total_grad(value: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, through which gradients flow back to all of them."""
    if world() == 1:
        return value
    import torch.distributed.nn.functional as with_grad

    return with_grad.all_reduce(value)


def barrier() -> None:
    if world() > 1:
        dist.barrier()
