"""What a step does differently on an accelerator: precision, steps as a graph, losses that are not looked at each time.

Everything here runs on a CPU as well, where tests compare it with the plain way.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lt import distributed

WARM_UP = 3  # eager steps before a capture: libraries choose their kernels, optimisers make their state


def autocast(device: torch.device, precision: str, *, cache: bool = True) -> contextlib.AbstractContextManager:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype, cache_enabled=cache) if dtype else contextlib.nullcontext()


def supported(precision: str, device: torch.device) -> str:
    """The precision that this device computes natively; fp32 otherwise."""
    if precision == "bf16" and device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if fast else "fp32"
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32"
    return "fp32" if precision == "fp16" and device.type == "cpu" else precision


def to_device(batch: dict[str, Any], settings: Any) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(move(v) for v in value)
        if not isinstance(value, Tensor):
            return value
        value = value.to(settings.device, non_blocking=True)
        if settings.channels_last and value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    return {key: move(value) for key, value in batch.items()}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """A captured step reads its rate from the device; any other from a number."""
    for group in optimizer.param_groups:
        value = rate * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def rate_of(optimizer: torch.optim.Optimizer) -> float:
    return max(float(group["lr"]) for group in optimizer.param_groups)


def skippable(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a flag on the device can make a step do nothing: what fused optimisers offer to gradient scaling."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return bool(fused and getattr(optimizer, "_step_supports_amp_scaling", False))


class Watch:
    """Losses that must be finite. Looked at every `every` updates; between two looks a flag on the device remembers.

    From the first loss on that is not finite, the flag makes every step of the optimiser do nothing: what is found late
    has still stopped before its update.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, every: int = 1) -> None:
        self.optimizer, self.every = optimizer, every
        self.bad = torch.zeros((), device=device)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        self.first = torch.full((), -1, dtype=torch.int64, device=device)  # -1: not on this rank

    def begin(self, step: int) -> None:
        """Before the first step of an epoch, or of what is left of one."""
        self.steps.fill_(step)

    def see(self, loss: Tensor) -> float | None:
        """The loss if it is known now and not finite."""
        if self.every == 1:
            value = loss.item()
            return None if math.isfinite(value) else value
        wrong = (~torch.isfinite(loss.detach())).float()
        self.first.copy_(torch.where((self.bad == 0) & (wrong > 0), self.steps, self.first))
        self.bad.copy_(torch.maximum(self.bad, wrong))
        self.steps += 1
        return None

    def step(self) -> None:
        """The optimiser's step, which does nothing once the flag is up."""
        if self.every > 1:
            distributed.largest_(self.bad)
            self.optimizer.found_inf = self.bad
        self.optimizer.step()

    def due(self, updates: int) -> bool:
        return updates % self.every == 0

    def look(self) -> int | None:
        """Waits for the device: the step whose loss was not finite, -1 where it was another rank's."""
        return None if self.every == 1 or self.bad.item() == 0 else int(self.first.item())


class Captured:
    """A step whose work on the device is recorded once and replayed: the host launches one graph instead of hundreds
    of kernels. The first steps, and batches of another size, run eagerly; they are steps like any other.

    `run(image, target)` must be whole (forward, backward, update, sums) and read nothing that changes but its
    arguments and tensors that are changed in place.
    """

    def __init__(self, run: Callable[[Tensor, Tensor], None], device: torch.device, size: int) -> None:
        self.run, self.device, self.size = run, device, size  # of a whole batch
        self.sums: Tensor | None = None  # of the epoch; the graph adds to this very tensor
        self.eager, self.replays = 0, 0
        self.forget()

    def forget(self) -> None:
        """What the step does has changed: record it anew."""
        self.replay: Callable[[], None] | None = None
        self.image = self.target = None

    def __call__(self, image: Tensor, target: Tensor) -> None:
        whole = len(image) == self.size
        if self.replay is None and self.eager >= WARM_UP and whole:
            self._record(image, target)
        if self.replay is None or not whole:
            self.eager += 1
            self._aside(image, target) if self.replay is None else self.run(image, target)
            return
        self.image.copy_(image)
        self.target.copy_(target)
        self.replay()
        self.replays += 1

    def _aside(self, image: Tensor, target: Tensor) -> None:
        """A warm-up step, on a stream of its own as captures want it."""
        if self.device.type != "cuda":
            return self.run(image, target)
        side, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            self.run(image, target)
        main.wait_stream(side)

    def _record(self, image: Tensor, target: Tensor) -> None:
        self.image, self.target = torch.empty_like(image).copy_(image), torch.empty_like(target).copy_(target)
        if self.device.type != "cuda":
            self.replay = lambda: self.run(self.image, self.target)
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a loader's thread may pin memory meanwhile
            self.run(self.image, self.target)
        self.replay = graph.replay
