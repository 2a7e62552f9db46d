"""Switches of the device path against the plain way; what needs an accelerator is marked `gpu`."""

from __future__ import annotations

import copy

import pytest
import torch
from test_engine import Batches, network
from torch import nn

from lt import engine, losses, models, optim
from lt.device import WARM_UP, Captured, Watch, rate_of, set_rate, skippable
from lt.engine import Hooks, Settings, Stop, TrainState, fit
from lt.errors import NonFinite
from lt.stages.devices import set_products
from lt.tasks.classify import Classify

CPU = torch.device("cpu")


class Sometimes(Batches):
    """One batch of each epoch is not finite."""

    def __init__(self, at):
        super().__init__()
        self.x[at * self.batch] = float("inf")


MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
}


def state_of(optimizer="sgd", *, loader=None, loss=None, model=None, device=CPU):
    model = (model or network()).to(device)
    return TrainState(
        model=model,
        optimizer=MAKERS[optimizer](model.parameters()),
        task=Classify(model=model, loss=loss or nn.CrossEntropyLoss()),
        loader=loader or Batches(),
    )


def settings_of(**given):
    given = {"epochs": 3, "seed": 0, "schedule": lambda e, s: 0.1 / (1 + e + s), "device": CPU} | given
    return Settings(**given)


def weights(state):
    return torch.cat([v.detach().flatten().cpu().double() for v in state.model.state_dict().values()])


@pytest.mark.parametrize("optimizer", MAKERS)
@pytest.mark.parametrize("images", [24, 26])  # 26: a ragged last batch
def test_captured_steps_are_the_plain_ones(optimizer, images):
    """To 1e-12: on a CPU a replay runs what was recorded; with an accelerator see below."""
    plain = fit(state_of(optimizer, loader=Batches(images)), settings_of(), Hooks(), Stop())
    state = state_of(optimizer, loader=Batches(images))
    fit(state, settings_of(capture=True, read_every=5), Hooks(), Stop())
    torch.testing.assert_close(weights(state), weights(plain), rtol=1e-12, atol=1e-7)
    for one, other in zip(state.history, plain.history, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_a_replay_is_what_runs(monkeypatch):
    made = []
    monkeypatch.setattr(engine, "Captured", lambda *args: made.append(Captured(*args)) or made[-1])
    fit(state_of(loader=Batches(26)), settings_of(capture=True, read_every=5), Hooks(), Stop())
    (captured,) = made
    assert captured.eager == WARM_UP + 3  # each epoch's last batch is ragged
    assert captured.replays == 3 * 7 - captured.eager


@pytest.mark.parametrize("images", [27, 3])  # three whole batches and a ragged one; a ragged one alone
def test_a_ragged_batch_is_never_what_is_recorded(monkeypatch, images):
    made = []
    monkeypatch.setattr(engine, "Captured", lambda *args: made.append(Captured(*args)) or made[-1])
    fit(state_of(loader=Batches(images, 8)), settings_of(epochs=5, capture=True, read_every=5), Hooks(), Stop())
    (captured,) = made
    if images == 3:  # the whole batch of this loader
        assert captured.size == 3 and captured.replays == 5 - WARM_UP
        return
    assert captured.image.shape[0] == captured.size == 8
    assert captured.eager == WARM_UP + 5 and captured.replays == 5 * 4 - captured.eager


@pytest.mark.parametrize("teacher", [False, True])
def test_experts_can_be_captured_and_switch_by_epoch(teacher):
    from lt.tasks.experts import Experts

    def state():
        model = models.build("ride_resnet8", 3, seed=0, in_channels=1, experts=2).train()
        above = models.build("ride_resnet8", 3, seed=1, in_channels=1, experts=2) if teacher else None
        loss = losses.build("ride", class_counts=[9, 5, 3], reweight_epoch=2)
        loader = Batches(27, 8)
        loader.x = torch.randn(27, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        task = Experts(model=model, loss=loss, teacher=above)
        return TrainState(model=model, optimizer=MAKERS["sgd"](model.parameters()), task=task, loader=loader)

    plain = fit(state(), settings_of(epochs=4), Hooks(), Stop())
    assert engine.why_not_captured(state(), settings_of(read_every=5)) == ""
    other = fit(state(), settings_of(epochs=4, capture=True, read_every=5), Hooks(), Stop())
    torch.testing.assert_close(weights(other), weights(plain), rtol=1e-12, atol=1e-7)


def test_emulated_bf16_is_not_native(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert engine.supported("bf16", torch.device("cuda")) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert engine.supported("bf16", torch.device("cuda")) == "bf16"


def test_what_a_graph_holds_is_recorded_anew_where_the_loss_switches():
    loss = losses.build("ldam", class_counts=[9, 5, 3], reweight_epoch=1)
    plain = fit(state_of(loss=copy.deepcopy(loss)), settings_of(), Hooks(), Stop())
    state = state_of(loss=loss)
    assert state.task.capturable and state.task.changes_by_epoch
    fit(state, settings_of(capture=True, read_every=3), Hooks(), Stop())
    torch.testing.assert_close(weights(state), weights(plain), rtol=1e-12, atol=1e-7)


def test_what_cannot_be_captured_says_why():
    assert engine.why_not_captured(state_of(), settings_of(read_every=2)) == ""
    eql = losses.build("eql", class_counts=[9, 5, 3])
    cases = [
        (state_of(), {}, "read_every 1"),
        (state_of(), {"accumulate": 2, "clip": 1.0}, "accumulate, clip"),
        (state_of(loss=losses.build("bagmar", class_counts=[9, 5, 3])), {}, "its task, mix or loss"),
        (state_of(loss=eql), {}, "its task, mix or loss"),
        (state_of(model=network(nn.Dropout(0.1))), {}, "dropout"),
    ]
    for state, given, reason in cases:
        settings = settings_of(**{"read_every": 1 if reason == "read_every 1" else 2, **given})
        assert engine.why_not_captured(state, settings) == reason


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("read_every", [2, 4, 100])
def test_a_loss_that_is_found_late_has_stopped_before_its_update(capture, read_every):
    """The weights are those before the bad step, and its own batch goes into the capture."""
    before, kept = [], {}

    def after(state):
        before.append(weights(state))

    plain = state_of(loader=Sometimes(at=4))
    with pytest.raises(NonFinite):
        fit(plain, settings_of(), Hooks(after_step=after), Stop())
    state = state_of(loader=Sometimes(at=4))

    def capture_(state, batch, step):
        kept.update(step=step.step, finite=bool(torch.isfinite(batch["image"]).all()))
        return "there"

    hooks = Hooks(capture=capture_)
    with pytest.raises(NonFinite, match=r"in epoch 1, step 5; nothing was updated since; captured: lt replay there"):
        fit(state, settings_of(read_every=read_every, capture=capture), hooks, Stop())
    torch.testing.assert_close(weights(state), before[3], rtol=0, atol=0)
    assert kept == {"step": 4, "finite": False}


def test_nothing_bad_is_saved():
    saved = []
    hooks = Hooks(save=lambda state: saved.append(weights(state)))
    state = state_of(loader=Sometimes(at=4))
    with pytest.raises(NonFinite):
        fit(state, settings_of(read_every=100, save_every_s=0.0), hooks, Stop())
    assert len(saved) == 4 and all(torch.isfinite(each).all() for each in saved)


def test_only_an_optimiser_that_can_skip_waits():
    model = network()
    assert skippable(torch.optim.SGD(model.parameters(), lr=0.1, fused=True))
    assert not skippable(torch.optim.SGD(model.parameters(), lr=0.1))
    state = state_of()
    state.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert engine.looks_every(state, settings_of(read_every=9)) == 1
    assert engine.looks_every(state_of(), settings_of(read_every=9)) == 9


def test_rates_on_the_device():
    optimizer = MAKERS["sgd"]([{"params": [nn.Parameter(torch.zeros(2))], "lr_scale": 0.5}])
    place = optimizer.param_groups[0]["lr"] = torch.tensor(0.0)
    set_rate(optimizer, 0.4)
    assert place.item() == pytest.approx(0.2) and rate_of(optimizer) == pytest.approx(0.2)


def test_a_watch_looks_at_once_by_default():
    watch = Watch(MAKERS["sgd"](network().parameters()), CPU)
    assert watch.see(torch.tensor(1.0)) is None and watch.see(torch.tensor(float("inf"))) == float("inf")
    assert watch.look() is None


# with an accelerator ------------------------------------------------------------------------------------------

gpu = pytest.mark.gpu
needs = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")


def images(count=200, batch=32):
    loader = Batches(count, batch)
    source = torch.Generator().manual_seed(2)
    loader.x = torch.randn(count, 3, 32, 32, generator=source).to(CUDA)
    loader.y = torch.randint(10, (count,), generator=source).to(CUDA)
    return loader


def curve(**given):
    model = models.build("resnet8", 10, seed=0)
    if given.get("channels_last"):
        model = model.to(memory_format=torch.channels_last)
    state = state_of(loader=images(), model=model, device=CUDA)
    if not given.pop("fused", True):
        state.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    if given.get("precision") == "fp16":
        state.optimizer = optim.optimizer("sgd", [{"params": [*model.parameters()], "weight_decay": 1e-3}])
        state.scaler = torch.amp.GradScaler("cuda")
    set_products({"device": {"tf32": given.pop("tf32", False)}})
    fit(state, settings_of(device=CUDA, **given), Hooks(), Stop())
    set_products({"device": {"tf32": False}})
    return torch.tensor([row["loss"] for row in state.history])


@gpu
@needs
@pytest.mark.parametrize(
    ("given", "tolerance"),
    [
        ({"read_every": 4}, 1e-5),
        ({"read_every": 4, "capture": True}, 1e-3),
        ({"channels_last": True}, 1e-3),
        ({"fused": False}, 1e-5),
        ({"tf32": True}, 1e-3),
        ({"compile": True}, 1e-3),
        ({"precision": "bf16"}, 2e-2),
        ({"precision": "fp16"}, 2e-2),
        ({"precision": "bf16", "channels_last": True, "read_every": 4, "capture": True}, 2e-2),
    ],
)
def test_switches_agree_with_the_plain_way_on_an_accelerator(given, tolerance):
    torch.backends.cudnn.allow_tf32 = False
    plain, other = curve(), curve(**given)
    torch.testing.assert_close(other, plain, rtol=tolerance, atol=tolerance)


@gpu
@needs
@pytest.mark.parametrize("mix", [None, "mixup", "mixup_cutmix", "remix"])
def test_nobody_waits_for_the_device_within_an_epoch(mix):
    """Where the loss is not looked at, no step and no mixing may wait: the host runs ahead."""
    from lt.tasks import mixing

    model = models.build("resnet8", 10, seed=0).to(CUDA)
    loss = losses.build("cross_entropy", class_counts=[3] * 10).to(CUDA)
    options = {} if mix == "mixup_cutmix" else {"alpha": 0.2}
    mixed = mixing.build(mix, num_classes=10, class_counts=[3] * 10, **options) if mix else None
    state = state_of(loader=images(), model=model, device=CUDA)
    state.task = Classify(model=model, loss=loss, mix=mixed)
    settings, watch = settings_of(device=CUDA, read_every=100), Watch(state.optimizer, CUDA, 100)
    for number, batch in enumerate(state.loader.epoch(0)):
        torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")  # the first ones make what stays
        try:
            engine._micro_step(state, model, batch, engine.Step(0, 0, number), settings, Hooks(), watch)
            watch.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@gpu
@needs
def test_prefetch_and_residence_change_no_batch():
    import numpy as np

    from lt.data import augment, sources
    from lt.data.loader import Loader

    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)
    source = sources.Source("x", np.arange(50) % 5, 5, images=pixels)
    preset = augment.build("crop_flip", mean=(0.5,) * 3, std=(0.25,) * 3)

    def batches(device, **given):
        loader = Loader(source, preset=preset, batch_size=8, seed=0, device=device, **given)
        return torch.cat([batch["image"].cpu() for batch in loader.epoch(1)])

    plain = batches("cpu")
    for given in ({}, {"prefetch": False}, {"resident": False}, {"resident": False, "prefetch": False}):
        torch.testing.assert_close(batches("cuda", **given), plain, rtol=0, atol=1e-6)


@gpu
@needs
@pytest.mark.parametrize("name", ["rrc_jitter", "randaugment_timm", "simclr_large"])
def test_batched_colour_and_erasing_are_the_same_on_the_device(name):
    from lt.data import augment

    preset = augment.build(
        name, size=64, mean=(0.5,) * 3, std=(0.25,) * 3, **({"fast": True} if "simclr" not in name else {})
    )
    source = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (16, 3 * preset.views, 64, 64), generator=source, dtype=torch.uint8)
    rows = torch.rand(16, preset.columns, generator=source)
    there, here = preset.batch(raw.to(CUDA), rows), preset.batch(raw, rows)
    for mine, plain in zip(there, here, strict=True) if preset.views > 1 else [(there, here)]:
        assert ((mine.cpu() - plain).abs() > 1.01 / 255 / 0.25).float().mean() < 1e-3
