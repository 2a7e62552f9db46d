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
from lt.device import Captured, Watch, autocast, rate_of, set_rate, skippable, supported, to_device
from lt.errors import Interrupted, NonFinite

__all__ = ["Hooks", "Settings", "Step", "Stop", "Task", "TrainState", "autocast", "fit", "supported", "to_device"]
SAVE_EVERY_S = 30.0
SAVE_SHARE = 0.02  # of the time, at most, goes into saving: a save that takes 2 s is not repeated within 100 s


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
    # Two that may be left out. capturable: a call reads nothing that changes from step to step but its batch and
    # tensors. repeatable (true): a batch can be fetched again.

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
        if self.seen is not None:  # the saved sums are those of all ranks: one goes on with them
            device = next(self.model.parameters()).device
            self.seen = self.seen.to(device) * float(distributed.is_main())


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
    compile: bool = False
    capture: bool = False
    read_every: int = 1
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


def fit(state: TrainState, settings: Settings, hooks: Hooks, stop: Stop) -> TrainState:
    """Train from where the state stands to the last epoch."""
    network = distributed.wrap(state.model, settings.device)
    network = torch.compile(network) if settings.compile else network
    watch = Watch(state.optimizer, settings.device, looks_every(state, settings))
    captured = _captured(state, network, settings, watch)
    saved, pause, failure = time.monotonic(), settings.save_every_s, None
    while state.epoch < settings.epochs:
        state.model.train()
        state.task.start_epoch(state.epoch)
        _begin_epoch(state, settings, watch, captured)
        started = time.monotonic()
        for batch in state.loader.epoch(state.epoch, start=state.step):
            step, batch = Step(settings.seed, state.epoch, state.step, distributed.rank()), to_device(batch, settings)
            if captured:
                set_rate(state.optimizer, settings.schedule(step.epoch, step.step))
                captured(batch["image"], batch["target"])
                state.step += 1
            else:
                failure = _micro_step(state, network, batch, step, settings, hooks, watch) or failure
            if failure and distributed.world() == 1:
                raise NonFinite(failure)
            if state.step % settings.accumulate:
                continue
            looking = watch.due(state.step // settings.accumulate)
            failed, stopping, due = _agreed(failure, stop, time.monotonic() - saved >= pause, looking, settings)
            if failed:
                raise NonFinite(failure or "the loss of another rank is not finite; nothing was updated")
            if not captured:
                _update(state, settings, watch)
            if looking or stopping or due:
                _look(state, settings, hooks, watch)
            hooks.after_step(state)
            if stopping or due:
                saved, pause = _save(state, hooks, settings)
            if stopping:
                raise Interrupted(_stopped(state, stop))
        _look(state, settings, hooks, watch)
        _close_epoch(state, settings, hooks, time.monotonic() - started, failure)
    _save(state, hooks, settings)  # what follows may fail for want of space; it then costs no training
    return state


def _agreed(failure: str | None, stop: Stop, due: bool, looking: bool, settings: Settings) -> tuple[bool, ...]:
    """Failed, stopping, due for a save, on all ranks alike; they ask each other only when they look anyway."""
    flags = (bool(failure), stop.signal is not None, due)
    if distributed.world() == 1:
        return flags
    return distributed.agree(*flags, device=settings.device) if looking else (False, False, False)


def _captured(state: TrainState, network: nn.Module, settings: Settings, watch: Watch) -> Captured | None:
    """The whole update as one graph, where the recipe asks for it and the stage allows it."""
    if not settings.capture or why_not_captured(state, settings):
        return None
    for group in state.optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=settings.device)
        if "capturable" in group:
            group["capturable"] = settings.device.type == "cuda"

    def run(image: Tensor, target: Tensor) -> None:
        state.optimizer.zero_grad(set_to_none=True)
        batch = {"image": image, "target": target}
        with autocast(settings.device, settings.precision, cache=False):
            result = state.task(network, batch, Step(settings.seed, 0, 0))
        watch.see(result["loss"])
        result["loss"].backward()
        watch.step()
        _count(state, result, target)

    return Captured(run, settings.device, state.loader.size(0))


def looks_every(state: TrainState, settings: Settings) -> int:
    """Updates between two looks at the loss: 1 where a step could not be made to do nothing in between."""
    can = skippable(state.optimizer) and state.scaler is None and getattr(state.task, "repeatable", True)
    return settings.read_every if can else 1


def why_not_captured(state: TrainState, settings: Settings) -> str:
    """What of a stage a graph cannot hold; empty where it can. A graph cannot look at its own loss."""
    reasons = {
        "accumulate": settings.accumulate > 1,
        "clip": settings.clip is not None,
        "ema": state.ema is not None,
        "precision fp16": state.scaler is not None,
        "compile": settings.compile,
        "several ranks": distributed.world() > 1,
        "dropout": state.task.stochastic,
        "its task, mix or loss": not getattr(state.task, "capturable", False),
        "its optimiser": not skippable(state.optimizer),
        "read_every 1": looks_every(state, settings) == 1,
    }
    return ", ".join(name for name, holds in reasons.items() if holds)


def _begin_epoch(state: TrainState, settings: Settings, watch: Watch, captured: Captured | None) -> None:
    watch.begin(state.step)
    if captured is None:
        return
    if getattr(state.task, "changes_by_epoch", True):
        captured.forget()
    sums = torch.zeros(4, dtype=torch.float64, device=settings.device) if state.seen is None else state.seen
    state.seen = captured.sums = sums if captured.sums is None else captured.sums.copy_(sums)


def _look(state: TrainState, settings: Settings, hooks: Hooks, watch: Watch) -> None:
    """A loss that was not finite some steps ago: nothing was updated since. Its batch is fetched again."""
    if (number := watch.look()) is None:
        return
    if number < 0:
        raise NonFinite("the loss of another rank is not finite; nothing was updated since")
    step = Step(settings.seed, state.epoch, number, distributed.rank())
    batch = to_device(next(iter(state.loader.epoch(state.epoch, start=number))), settings)
    place = hooks.capture(state, batch, step)
    raise NonFinite(
        f"the loss is not finite in epoch {step.epoch + 1}, step {number + 1}; nothing was updated since; "
        f"captured: lt replay {place}"
    )


def _save(state: TrainState, hooks: Hooks, settings: Settings) -> tuple[float, float]:
    """All ranks come here at the same step; what is saved of the epoch's sums is those of all.

    When that was, and how long no other is due; 0 s, where a save is asked for at every step, stays that.
    """
    own, started = state.seen, time.monotonic()
    state.seen = None if own is None else distributed.total(own)
    hooks.save(state)
    state.seen = own
    ended = time.monotonic()
    return ended, max(settings.save_every_s, (ended - started) / SAVE_SHARE) if settings.save_every_s else 0.0


def _stopped(state: TrainState, stop: Stop) -> str:
    name = signal.Signals(stop.signal).name if stop.signal else "another rank"
    place = f"epoch {state.epoch + 1}, step {state.step}"
    return f"stopped by {name} in {place}; state saved, run the same command again"


def _micro_step(
    state: TrainState, network: nn.Module, batch: dict, step: Step, settings: Settings, hooks: Hooks, watch: Watch
) -> str | None:
    """Forward and backward; says what is wrong if the loss is not finite."""
    first = step.step % settings.accumulate == 0
    last = (step.step + 1) % settings.accumulate == 0
    if first:
        state.optimizer.zero_grad(set_to_none=True)
        set_rate(state.optimizer, settings.schedule(step.epoch, step.step))
    if state.task.stochastic:  # dropout and drop path know only torch's own generator
        torch.manual_seed(rng.torch_seed(step.seed, "dropout", step.epoch, step.step, step.rank))
    failure = None
    with autocast(settings.device, settings.precision), distributed.no_sync(network, not last):
        result = state.task(network, batch, step)
        loss = result["loss"]
        if (value := watch.see(loss)) is not None:
            place = hooks.capture(state, batch, step)
            failure = (
                f"the loss is {value} in epoch {step.epoch + 1}, step {step.step + 1}; nothing was updated; "
                f"captured: lt replay {place}"
            )
            if distributed.world() == 1:
                return failure
        scaled = loss * _share(state, batch, step) / settings.accumulate
        (state.scaler.scale(scaled) if state.scaler else scaled).backward()
    state.step += 1
    _count(state, result, batch["target"])
    return failure


def _share(state: TrainState, batch: dict, step: Step) -> float:
    """DDP takes the mean over ranks: a rank with fewer images of a ragged batch must weigh less in it."""
    if distributed.world() == 1:
        return 1.0
    return len(batch["target"]) * distributed.world() / state.loader.size(step.step)


def _update(state: TrainState, settings: Settings, watch: Watch) -> None:
    if settings.clip is not None:
        if state.scaler:
            state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_([p for g in state.optimizer.param_groups for p in g["params"]], settings.clip)
    if state.scaler:
        state.scaler.step(state.optimizer)
        state.scaler.update()
    else:
        watch.step()
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


def _close_epoch(
    state: TrainState, settings: Settings, hooks: Hooks, seconds: float, failure: str | None = None
) -> None:
    """Write the epoch's row, validate where the recipe asks, and move on. An unfinished accumulation is dropped."""
    sums = torch.zeros(4, dtype=torch.float64) if state.seen is None else state.seen.to(settings.device)
    loss, images, hits, judged = distributed.total(sums).tolist()
    if not math.isfinite(loss):  # only in the micro-batches of a tail that no update saw
        raise NonFinite(failure or "the loss of another rank is not finite")
    row = {
        "epoch": state.epoch + 1,
        "lr": rate_of(state.optimizer),
        "loss": loss / max(images, 1),
        "train_top1": 100 * hits / judged if judged else None,
    }
    state.epoch, state.step, state.seen = state.epoch + 1, 0, None
    last = state.epoch == settings.epochs
    if hooks.validate and settings.eval_every and (state.epoch % settings.eval_every == 0 or last):
        model = state.ema.module if state.ema else state.model
        distributed.same_buffers(model)
        row.update(hooks.validate(model))
    state.history.append(row)
    hooks.log({**row, "seconds": seconds, "images_per_s": images / max(seconds, 1e-9)})
    hooks.epoch_end(state)
