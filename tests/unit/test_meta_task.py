"""BALMS's meta task: it learns, resumes to the bit, and says in one line what it cannot do."""

from __future__ import annotations

import copy
import signal
from typing import Any

import numpy as np
import pytest
import torch

from lt import engine, losses, models, optim, rng
from lt.data import augment
from lt.data.online import OnlineLoader
from lt.data.sources import Source
from lt.errors import Interrupted, UserError
from lt.sampling import samplers
from lt.stages.parts import loader_of, loss_of, meta_inputs
from lt.tasks import build

COUNTS = np.array([40, 16, 6])
LABELS = np.repeat(np.arange(3), COUNTS)
PARAMS = {"meta": {"times": 2, "k": 2}, "accumulate": 1, "workers": 0}


def source() -> Source:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 160, (len(LABELS), 1, 8, 8)) + 40 * LABELS[:, None, None, None]
    return Source("made up", LABELS, 3, images=images.astype(np.uint8))


def state(*, lr: float = 0.05, preset: str = "crop_flip", workers: int = 0, **changes: Any) -> engine.TrainState:
    params, images = {**PARAMS, "workers": workers, **changes}, source()
    sampler = samplers.build("meta", labels=LABELS, num_classes=3, source=rng.stream(0, "sampler"), lr=lr)
    loader = OnlineLoader(
        images,
        preset=augment.build(preset, mean=[0.5], std=[0.5], **({"pad": 1} if preset == "crop_flip" else {})),
        batch_size=8,
        seed=0,
        sampler=sampler,
        steps=4,
        workers=workers,
    )
    model = models.build("resnet8", 3, seed=1, in_channels=1)
    models.freeze(model, train="head", bn="train")
    optimizer = optim.optimizer("sgd", optim.param_groups(model, weight_decay=5e-4), momentum=0.9)
    given = meta_inputs(loader, optimizer, source=images, params=params, seed=0, num_classes=3)
    loss = losses.build("balanced_softmax", class_counts=COUNTS)
    task = build("meta", model=model, loss=loss, mix=None, **given)
    return engine.TrainState(model=model, optimizer=optimizer, task=task, loader=loader)


SETTINGS = engine.Settings(epochs=2, seed=0, schedule=lambda epoch, step: 0.1, device=torch.device("cpu"))


def finished(run: engine.TrainState, **hooks: Any) -> dict[str, Any]:
    engine.fit(run, SETTINGS, engine.Hooks(**hooks), engine.Stop())
    return run.state_dict()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_the_sampler_learns_and_only_the_classifier_trains() -> None:
    run = state()
    before, start = copy.deepcopy(run.model.state_dict()), run.task.sampler.weight.detach().clone()
    finished(run)
    moved = {k for k, v in run.model.state_dict().items() if not torch.equal(v, before[k])}
    assert {"fc.weight", "fc.bias"} <= moved
    assert all("running" in k or "tracked" in k for k in moved - {"fc.weight", "fc.bias"})
    assert not torch.equal(run.task.sampler.weight, start)
    assert int(run.model.bn1.num_batches_tracked) == 2 * 2 * 4  # both batches of every step pass the backbone


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_stopped_run_ends_in_the_same_bits(at: int) -> None:
    whole, kept, steps, stop = finished(state()), {}, iter(range(1, 100)), engine.Stop()

    def after_step(run: engine.TrainState) -> None:
        if next(steps) == at:
            stop.signal = signal.SIGTERM

    hooks = engine.Hooks(save=lambda run: kept.update(copy.deepcopy(run.state_dict())), after_step=after_step)
    with pytest.raises(Interrupted):
        engine.fit(state(), SETTINGS, hooks, stop)
    resumed = state()
    resumed.load_state_dict(kept)
    assert same(finished(resumed), whole)


def test_workers_share_a_batch_and_change_nothing() -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        run = state(preset="cifar_autoaugment_cutout", workers=workers)
        return [batch["image"] for batch in run.loader.epoch(0)]

    alone, shared = batches(0), batches(2)
    assert len(alone) == 4 and all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_what_it_cannot_do_is_one_line() -> None:
    with pytest.raises(UserError, match="accumulate"):
        state(accumulate=2)
    model = models.build("resnet8", 3, seed=1, in_channels=1)
    loss = losses.build("cross_entropy", class_counts=COUNTS)
    with pytest.raises(UserError, match="needs sampler"):
        build("meta", model=model, loss=loss, mix=None)
    given = {"sampler": state().task.sampler, "balanced": object(), "optimizer": object()}
    with pytest.raises(UserError, match="trainable: head"):
        build("meta", model=model, loss=loss, mix=None, **given)
    plain = samplers.build("class_aware", labels=LABELS, num_classes=3, source=rng.stream(0, "sampler"))
    assert loader_of(plain) is not OnlineLoader and loader_of(state().task.sampler) is OnlineLoader


def test_a_loss_learns_of_the_accumulation_and_the_seed() -> None:
    params = {"loss": {"name": "bagmar", "lambda1": 1.2}, "accumulate": 4}
    assert loss_of(params, COUNTS, seed=3).micro_batches == 4
    params = {"loss": {"name": "eql"}, "accumulate": 1}
    assert loss_of(params, COUNTS, seed=3).seed == 3
    params["loss"]["seed"] = 5
    assert loss_of(params, COUNTS, seed=3).seed == 5
    assert not hasattr(loss_of({"loss": {"name": "focal", "gamma": 1.0}, "accumulate": 2}, COUNTS, seed=0), "seed")


def test_class_aware_batches_drawn_and_dropped() -> None:
    def make(**options: int) -> samplers.ClassAware:
        return samplers.build(
            "class_aware", labels=LABELS, num_classes=3, source=rng.stream(0, "sampler"), k=2, **options
        )

    plain, dropping = make(), make(discard=8)
    expected = [plain.epoch(e, 24)[:16] for e in range(3)]
    assert all(np.array_equal(dropping.epoch(e, 16), expected[e]) for e in range(3))
    with pytest.raises(UserError, match="discard"):
        make(discard=-1)
