"""The training loop. A task says what one step means; this file says when: order, precision, accumulation,
ranks, saving, stopping. Everything that must survive a kill stands in TrainState.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lt import distributed, rng
from lt.errors import Interrupted, NonFinite

SAVE_EVERY_S = 30.0


@dataclass(frozen=True)
class Step:
    """Where a step stands: what its random draws are a function of."""

    seed: int
    epoch: int
    step: int
    rank: int = 0


class Task(Protocol):
    """One training step: batch -> {"loss": scalar, "logits": [B, C] or None, "hits": optional}."""

    stochastic: bool

    def start_epoch(self, epoch: int) -> None: ...
    def __call__(self, network: nn.Module, batch: dict[str, Any], step: Step) -> dict[str, Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class TrainState:
    """All that a resumed run needs. Draws are functions of (seed, epoch, step), so no generator is in it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    task: Any
    loader: Any
    scaler: Any = None
    ema: nn.Module | None = None
    epoch: int = 0
    step: int = 0  # micro-steps done in this epoch; always a multiple of the accumulation
    seen: Tensor | None = None  # this epoch's sums on the device: loss, images, hits, images with logits
    history: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "task": self.task.state_dict(),
            "loader": self.loader.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "ema": self.ema.state_dict() if self.ema else None,
            "epoch": self.epoch,
            "step": self.step,
            "seen": self.seen,
            "history": list(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.task.load_state_dict(state["task"])
        self.loader.load_state_dict(state["loader"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema and state["ema"]:
            self.ema.load_state_dict(state["ema"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.seen, self.history = state["seen"], list(state["history"])


@dataclass(frozen=True)
class Settings:
    """How to run a recipe; of these only precision may change a number."""

    epochs: int
    seed: int
    schedule: Callable[[int, int], float]
    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False
    accumulate: int = 1
    clip: float | None = None
    eval_every: int = 0
    save_every_s: float = SAVE_EVERY_S


@dataclass(frozen=True)
class Hooks:
    """What the caller does at the loop's few seams."""

    save: Callable[[TrainState], None] = lambda state: None
    log: Callable[[dict[str, float]], None] = lambda row: None
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    capture: Callable[[TrainState, dict, Step], str] = lambda state, batch, step: ""
    epoch_end: Callable[[TrainState], None] = lambda state: None
    after_step: Callable[[TrainState], None] = lambda state: None


class Stop:
    """SIGTERM and SIGUSR1 ask for a stop; the loop obeys at the next step."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listen(self) -> Iterator[Stop]:
        kept = {}
        for number in (signal.SIGTERM, signal.SIGUSR1):
            with contextlib.suppress(ValueError):  # not in the main thread
                kept[number] = signal.signal(number, self._heard)
        try:
            yield self
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: object) -> None:
        self.signal = number


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


def supported(precision: str, device: torch.device) -> str:
    """The precision that this device computes natively; fp32 otherwise."""
    if precision == "bf16" and device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if fast else "fp32"
    if precision == "bf16" and not torch.cuda.is_bf16_supported():
        return "fp32"
    return "fp32" if precision == "fp16" and device.type == "cpu" else precision


def to_device(batch: dict[str, Any], settings: Settings) -> dict[str, Any]:
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


def fit(state: TrainState, settings: Settings, hooks: Hooks, stop: Stop) -> TrainState:
    """Train from where the state stands to the last epoch."""
    network = distributed.wrap(state.model, settings.device)
    saved = time.monotonic()
    while state.epoch < settings.epochs:
        state.model.train()
        state.task.start_epoch(state.epoch)
        started = time.monotonic()
        for batch in state.loader.epoch(state.epoch, start=state.step):
            step = Step(settings.seed, state.epoch, state.step, distributed.rank())
            _micro_step(state, network, to_device(batch, settings), step, settings, hooks)
            if state.step % settings.accumulate:
                continue
            hooks.after_step(state)
            if distributed.any_rank(stop.signal is not None, settings.device):
                hooks.save(state)
                name = signal.Signals(stop.signal).name if stop.signal else "another rank"
                raise Interrupted(
                    f"stopped by {name} in epoch {state.epoch + 1}, step {state.step}; "
                    "state saved, run the same command again"
                )
            if time.monotonic() - saved >= settings.save_every_s:
                hooks.save(state)
                saved = time.monotonic()
        _close_epoch(state, settings, hooks, time.monotonic() - started)
    return state


def _micro_step(
    state: TrainState, network: nn.Module, batch: dict, step: Step, settings: Settings, hooks: Hooks
) -> None:
    """Forward, backward and, at the end of an accumulation, the update."""
    first = step.step % settings.accumulate == 0
    last = (step.step + 1) % settings.accumulate == 0
    if first:
        state.optimizer.zero_grad(set_to_none=True)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.schedule(step.epoch, step.step) * group.get("lr_scale", 1.0)
    if state.task.stochastic:  # dropout and drop path know only torch's own generator
        torch.manual_seed(rng.torch_seed(step.seed, "dropout", step.epoch, step.step, step.rank))
    with autocast(settings.device, settings.precision), distributed.no_sync(network, not last):
        result = state.task(network, batch, step)
        loss = result["loss"]
        if not math.isfinite(loss.item()):
            place = hooks.capture(state, batch, step)
            raise NonFinite(
                f"the loss is {loss.item()} in epoch {step.epoch + 1}, step {step.step + 1}; nothing was updated; "
                f"captured: lt replay {place}"
            )
        scaled = loss / settings.accumulate
        (state.scaler.scale(scaled) if state.scaler else scaled).backward()
    state.step += 1
    _count(state, result, batch["target"])
    if last:
        _update(state, settings)


def _update(state: TrainState, settings: Settings) -> None:
    if settings.clip is not None:
        if state.scaler:
            state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_([p for g in state.optimizer.param_groups for p in g["params"]], settings.clip)
    if state.scaler:
        state.scaler.step(state.optimizer)
        state.scaler.update()
    else:
        state.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)


def _count(state: TrainState, result: dict[str, Tensor], target: Tensor) -> None:
    """Add to the epoch's sums without waiting for the device."""
    size, loss, logits = len(target), result["loss"].detach(), result.get("logits")
    if state.seen is None:
        state.seen = torch.zeros(4, dtype=torch.float64, device=loss.device)
    state.seen[0] += loss * size
    state.seen[1] += size
    if logits is not None and len(logits) == size:
        state.seen[2] += (logits.detach().argmax(1) == target).sum()
        state.seen[3] += size


def _close_epoch(state: TrainState, settings: Settings, hooks: Hooks, seconds: float) -> None:
    """Write the epoch's row, validate where the recipe asks, and move on. An unfinished accumulation is dropped."""
    sums = torch.zeros(4, dtype=torch.float64) if state.seen is None else state.seen.to(settings.device)
    loss, images, hits, judged = distributed.total(sums).tolist()
    row = {
        "epoch": state.epoch + 1,
        "lr": max(g["lr"] for g in state.optimizer.param_groups),
        "loss": loss / max(images, 1),
        "train_top1": 100 * hits / judged if judged else None,
    }
    state.epoch, state.step, state.seen = state.epoch + 1, 0, None
    last = state.epoch == settings.epochs
    if hooks.validate and settings.eval_every and (state.epoch % settings.eval_every == 0 or last):
        row.update(hooks.validate(state.ema.module if state.ema else state.model))
    state.history.append(row)
    hooks.log({**row, "seconds": seconds, "images_per_s": images / max(seconds, 1e-9)})
    hooks.epoch_end(state)
