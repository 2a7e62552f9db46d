"""The loop: what an update is, what survives a stop, what is written down."""

import itertools
import math
import statistics
import time

import pytest
import torch
from torch import nn

from lt import engine
from lt.engine import Hooks, Settings, Stop, TrainState, fit
from lt.errors import Interrupted, NonFinite
from lt.tasks.classify import Classify

CPU = torch.device("cpu")


class Batches:
    """A loader of fixed batches; `start` as the product's has it."""

    def __init__(self, images=24, batch=4, *, features=5, seed=1):
        source = torch.Generator().manual_seed(seed)
        self.x = torch.randn(images, features, generator=source)
        self.y = torch.randint(3, (images,), generator=source)
        self.batch = batch

    def __len__(self):
        return -(-len(self.x) // self.batch)

    def size(self, step):
        return min(self.batch, len(self.x) - step * self.batch)

    def epoch(self, epoch, start=0):
        for step in range(start, len(self)):
            part = slice(step * self.batch, (step + 1) * self.batch)
            yield {"image": self.x[part], "target": self.y[part]}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert state == {}


def network(*middle):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), *middle, nn.Linear(8, 3))


def state_of(*, loader=None, model=None, loss=None, ema=None, lr=0.1):
    model = model or network()
    return TrainState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        task=Classify(model=model, loss=loss or nn.CrossEntropyLoss()),
        loader=loader or Batches(),
        ema=ema and torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ema), use_buffers=True
        ),
    )  # fmt: skip


def settings(**given):
    return Settings(**{"epochs": 2, "seed": 0, "schedule": lambda e, s: 0.1, "device": CPU, **given})


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


def run(state, hooks=None, stop=None, **given):
    return fit(state, settings(**given), hooks or Hooks(), stop or Stop())


def test_accumulation_equals_the_big_batch():
    small = run(state_of(loader=Batches(batch=4)), accumulate=3)
    big = run(state_of(loader=Batches(batch=12)))
    torch.testing.assert_close(weights(small), weights(big), rtol=0, atol=1e-6)
    assert small.history[0]["loss"] == pytest.approx(big.history[0]["loss"], abs=1e-6)


def test_a_tail_that_fills_no_accumulation_makes_no_update():
    """6 micro-batches by 4: one update an epoch; the two left over are dropped, in the next epoch as well."""
    whole, first = state_of(loader=Batches(24, 4)), state_of(loader=Batches(24, 4))
    first.loader.x, first.loader.y = first.loader.x[:16], first.loader.y[:16]
    run(whole, accumulate=4)
    run(first, accumulate=4)
    assert torch.equal(weights(whole), weights(first))


def test_clipping_bounds_the_update_of_the_whole_gradient():
    before, state = weights(state_of()), state_of(loader=Batches(4, 4))
    run(state, epochs=1, clip=1e-3)
    assert (weights(state) - before).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)
    free = state_of(loader=Batches(4, 4))
    run(free, epochs=1)
    assert (weights(free) - before).norm() > 10 * (weights(state) - before).norm()


def test_clipping_sees_the_sum_of_an_accumulation():
    small = run(state_of(loader=Batches(batch=4)), accumulate=3, clip=0.05)
    big = run(state_of(loader=Batches(batch=12)), clip=0.05)
    torch.testing.assert_close(weights(small), weights(big), rtol=0, atol=1e-6)


def test_ema_is_the_recursion_over_updates_and_what_is_validated():
    state, seen, judged = state_of(ema=0.8), [], []
    hooks = Hooks(
        after_step=lambda s: seen.append(weights(s)),
        validate=lambda model: judged.append(model) or {"val_top1": 1.0},
    )
    run(state, hooks, eval_every=1)
    expected = seen[0]
    for each in seen[1:]:
        expected = 0.8 * expected + 0.2 * each
    found = torch.cat([p.flatten() for p in state.ema.module.parameters()])
    torch.testing.assert_close(found, expected)
    assert all(model is state.ema.module for model in judged)


@pytest.mark.parametrize(("every", "epochs"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_validation_comes_every_so_many_epochs_and_at_the_end(every, epochs):
    state = run(state_of(), Hooks(validate=lambda model: {"val_top1": 3.0}), epochs=5, eval_every=every)
    assert [row["epoch"] for row in state.history if "val_top1" in row] == epochs


def test_the_rate_follows_the_schedule_and_the_groups_own_scale():
    state, rates = state_of(), []
    state.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 0.5})
    log = lambda s: rates.append([g["lr"] for g in s.optimizer.param_groups])
    run(state, Hooks(after_step=log), schedule=lambda e, s: 10.0 * e + s, accumulate=2)
    assert rates == [[r, r / 2] for r in (0, 2, 4, 10, 12, 14)]


def test_the_row_of_an_epoch_holds_sums_over_images():
    class Fixed(nn.Module):
        def forward(self, logits, target):
            return logits.sum() * 0 + len(target)

    state = run(state_of(loader=Batches(10, 4), loss=Fixed()), epochs=1)
    row = state.history[0]
    assert row["loss"] == pytest.approx((4 * 4 + 4 * 4 + 2 * 2) / 10)
    assert list(row) == ["epoch", "lr", "loss", "train_top1"]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("after", range(1, 6))
def test_stopped_after_any_update_and_resumed(accumulate, after):
    make = lambda: state_of(model=network(nn.Dropout(0.3), nn.BatchNorm1d(8)), ema=0.9)
    whole, stop, saved, count = run(make(), accumulate=accumulate), Stop(), [], []

    def watch(state):
        count.append(1)
        stop.signal = 15 if len(count) == after else stop.signal

    keep = lambda s: saved.append(copied(s.state_dict()))
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run(make(), Hooks(after_step=watch, save=keep), stop, accumulate=accumulate)
    again = make()
    again.load_state_dict(saved[-1])
    run(again, accumulate=accumulate)
    assert again.history == whole.history
    a, b = whole.state_dict(), again.state_dict()
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part])
    for k, v in a["optimizer"]["state"].items():
        assert torch.equal(v["momentum_buffer"], b["optimizer"]["state"][k]["momentum_buffer"])


def copied(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("accumulate", "at"), [(1, 4), (2, 3), (4, 6)])
def test_a_loss_that_is_not_finite_updates_nothing(value, accumulate, at):
    """The last case falls into a tail that no update would have seen."""
    calls, kept, captured = [], [], []

    class Breaks(nn.CrossEntropyLoss):
        def forward(self, logits, target):
            calls.append(1)
            return super().forward(logits, target) * (value if len(calls) == at else 1)

    def capture(state, batch, step):
        captured.append((weights(state), step, batch))
        return "here"

    state = state_of(loss=Breaks())
    hooks = Hooks(capture=capture, after_step=lambda s: kept.append(weights(s)))
    with pytest.raises(NonFinite, match=rf"in epoch 1, step {at}; nothing was updated; captured: lt replay here"):
        run(state, hooks, accumulate=accumulate)
    assert len(kept) == (at - 1) // accumulate
    assert torch.equal(weights(state), kept[-1])
    assert captured[0][1] == engine.Step(0, 0, at - 1)


def test_states_are_saved_by_time_and_at_the_end():
    saved = []
    run(state_of(), Hooks(save=lambda s: saved.append((s.epoch, s.step))), save_every_s=0)
    assert saved == [(e, s) for e in (0, 1) for s in range(1, 7)] + [(2, 0)]
    saved.clear()
    run(state_of(), Hooks(save=lambda s: saved.append((s.epoch, s.step))))
    assert saved == [(2, 0)]


@pytest.mark.parametrize(("cost", "wanted"), [(0.1, 30.0), (2.0, 100.0)])
def test_saving_takes_at_most_a_fiftieth_of_the_time(monkeypatch, cost, wanted):
    """A state that takes long to write is written less often; what a kill then costs is fifty times a save."""
    clock, saved, pass_once = [0.0], [], engine._micro_step

    def passed(*given):
        clock[0] += 1.0
        return pass_once(*given)

    def save(state):
        saved.append(clock[0])
        clock[0] += cost

    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(engine, "_micro_step", passed)
    run(state_of(), Hooks(save=save), epochs=70)
    gaps = [b - a - cost for a, b in itertools.pairwise(saved[:-1])]  # the last one is the end
    assert len(gaps) > 2 and gaps[0] == pytest.approx(wanted, abs=1.01) and max(gaps) < wanted + 2
    assert cost * len(saved[:-1]) <= 0.02 * clock[0]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("seconds", [2.0, 7.0, 29.0, 45.0])
def test_a_kill_costs_at_most_30_seconds_and_an_update(monkeypatch, seconds, accumulate):
    """On a clock that every forward and backward pass moves on: what lies between two saved states."""
    clock, saved, pass_once = [100.0], [100.0], engine._micro_step

    def passed(*given):
        clock[0] += seconds
        return pass_once(*given)

    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(engine, "_micro_step", passed)
    run(state_of(), Hooks(save=lambda s: saved.append(clock[0])), epochs=8, accumulate=accumulate)
    gaps = [b - a for a, b in itertools.pairwise(saved)]
    assert len(gaps) > 2 and max(gaps) < 30 + accumulate * seconds


def test_precision_falls_back_where_the_device_has_none(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert engine.supported("bf16", CPU) == "fp32"
    assert engine.supported("fp16", CPU) == "fp32" and engine.supported("fp32", CPU) == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert engine.supported("bf16", CPU) == "bf16"


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32():
    seen = []

    class Looks(nn.CrossEntropyLoss):
        def forward(self, logits, target):
            seen.append(logits.dtype)
            return super().forward(logits.float(), target)

    state = run(state_of(loss=Looks()), precision="bf16", epochs=1)
    assert set(seen) == {torch.bfloat16} and weights(state).dtype == torch.float32


def test_compile_wraps_the_network_that_is_trained(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    state = run(state_of(), compile=True)
    assert compiled == [state.model]
    run(state_of())
    assert len(compiled) == 1


@pytest.mark.slow
def test_a_compiled_network_trains_alike():
    plain, compiled = run(state_of()), run(state_of(), compile=True)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=0, atol=1e-5)
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


def test_images_take_the_layout_of_the_recipe():
    batch = {"image": (torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)), "target": torch.zeros(2), "name": "x"}
    moved = engine.to_device(batch, settings(channels_last=True))
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in moved["image"])
    assert moved["name"] == "x"


@pytest.mark.bench
def test_the_loop_costs_at_most_a_twentieth():
    """P15: an epoch of the engine against bare forward, backward, step; CPU time, one thread, interleaved."""
    from lt import models

    torch.set_num_threads(1)

    class Images(Batches):
        def __init__(self):
            super().__init__(64 * 6, 64)
            self.x = torch.randn(64 * 6, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def make():
        return state_of(loader=Images(), model=models.build("resnet8", 3, seed=0))

    def bare(state):
        loss_of = nn.CrossEntropyLoss()
        for batch in state.loader.epoch(0):
            state.optimizer.zero_grad(set_to_none=True)
            loss_of(state.model(batch["image"]), batch["target"]).backward()
            state.optimizer.step()

    def looped(state):
        state.epoch = 0
        run(state, epochs=1)

    one, two, ratios = make(), make(), []
    for _ in range(5):
        spent = []
        for job, state in ((bare, one), (looped, two)):
            started = time.process_time()
            job(state)
            spent.append(time.process_time() - started)
        ratios.append(spent[1] / spent[0])
    print(f"P15: {statistics.median(ratios):.4f} {sorted(ratios)}")
    assert statistics.median(ratios) <= 1.05
