"""Two epochs of four micro-batches through pre-training and fine-tuning, as the official engines run them."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from livt_nets import DATA, close, from_config, small_vit

from lt import engine, losses, optim
from lt.data import mix

GOLDEN = np.load(DATA / "train_steps.npz")
EPOCHS, WARMUP, ACCUM, MICRO = 4, 1, 2, 4
LossOf = Callable[[torch.nn.Module, int, int], torch.Tensor]


class Batches:
    """The same micro-batches every epoch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def epoch(self, epoch: int, *, start: int) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(start, self.count):
            yield {"target": torch.zeros(1)}


class Watched:
    """A task that keeps the loss and the largest rate of every micro-step."""

    stochastic = False

    def __init__(self, loss_of: LossOf, optimizer: torch.optim.Optimizer) -> None:
        self.loss_of, self.optimizer = loss_of, optimizer
        self.seen: list[tuple[float, float]] = []

    def start_epoch(self, epoch: int) -> None:
        pass

    def __call__(self, network: torch.nn.Module, batch: dict, step: engine.Step) -> dict[str, torch.Tensor]:
        loss = self.loss_of(network, step.epoch, step.step)
        self.seen.append((loss.item(), max(group["lr"] for group in self.optimizer.param_groups)))
        return {"loss": loss}


def run(
    model: torch.nn.Module,
    groups: list[dict],
    betas: tuple[float, float],
    rates: dict[str, float],
    loss_of: LossOf,
    *,
    micro: int = MICRO,
    batches: int = MICRO,
) -> np.ndarray:
    optimizer = optim.optimizer("adamw", groups, betas=betas)
    by_update = optim.schedule(
        "mae",
        epochs=EPOCHS,
        steps_per_epoch=micro // ACCUM,
        warmup_epochs=WARMUP,
        accumulate=ACCUM,
        micro_batches=micro,
        **rates,
    )
    settings = engine.Settings(
        epochs=2,
        seed=0,
        schedule=lambda epoch, step: by_update(epoch, step // ACCUM),
        device=torch.device("cpu"),
        accumulate=ACCUM,
    )
    task = Watched(loss_of, optimizer)
    state = engine.TrainState(model=model, optimizer=optimizer, task=task, loader=Batches(batches))
    engine.fit(state, settings, engine.Hooks(), engine.Stop())
    return np.array(task.seen)


def compare(case: str, model: torch.nn.Module, seen: np.ndarray) -> None:
    np.testing.assert_allclose(seen[:, 0], GOLDEN[f"{case}/micro_loss_lr"][:, 0], rtol=5e-7)
    np.testing.assert_allclose(seen[:, 1], GOLDEN[f"{case}/micro_loss_lr"][:, 1], rtol=1e-12, atol=0)
    loss, lr = seen.reshape(2, MICRO, 2).mean(1).T
    np.testing.assert_allclose(loss, GOLDEN[f"{case}/epoch_loss"], rtol=5e-7)
    if f"{case}/epoch_lr" in GOLDEN.files:
        np.testing.assert_allclose(lr, GOLDEN[f"{case}/epoch_lr"], rtol=1e-12)
    state = model.state_dict()
    names = GOLDEN[f"{case}/names"].tolist()
    assert set(names) == set(state)
    close([state[n].norm().item() for n in names], GOLDEN[f"{case}/final_norm"], 0, 1e-8)
    # a sum runs over thousands of entries, each of which may be 1e-8 away
    close([state[n].sum().item() for n in names], GOLDEN[f"{case}/final_sum"], 0, 1e-7)
    final = f"{case}/final_"
    stored = [key.removeprefix(final) for key in GOLDEN.files if key.startswith(final)]
    stored = [name for name in stored if name in state]
    assert len(stored) == 2
    for name in stored:
        single = GOLDEN[final + name].dtype == np.float32
        close(state[name], GOLDEN[final + name], 0, 1e-7 if single else 1e-8)


def fine_tuning(case: str) -> tuple[torch.nn.Module, LossOf]:
    x, y = torch.from_numpy(GOLDEN[f"{case}/x"]).double(), torch.from_numpy(GOLDEN[f"{case}/y"])
    mixed = case.endswith("mix")
    counts = GOLDEN[f"{case}/cls_num"]
    criterion = losses.build("bal_bce", class_counts=counts, smoothing=0.0 if mixed else 0.1)
    source = np.random.RandomState(5)

    def loss_of(network: torch.nn.Module, epoch: int, step: int) -> torch.Tensor:
        images, target = x[step % MICRO], y[step % MICRO]
        if not mixed:
            return criterion(network(images), target)
        drawn = mix.draw_mix_timm(source, images.shape)
        soft = mix.soft_targets(target, 5, drawn, smoothing=0.1)
        return criterion(network(mix.apply(images, drawn)), soft)

    return small_vit(), loss_of


@pytest.mark.parametrize("case", ["bft_balbce", "bft_balbce_mix"])
def test_fine_tuning(case: str) -> None:
    model, loss_of = fine_tuning(case)
    groups = optim.param_groups(model, weight_decay=0.05, rule="layer_decay", decay=0.75)
    compare(case, model, run(model, groups, (0.9, 0.999), {"lr": 2e-3, "min_lr": 1e-6}, loss_of))


def test_masked_pre_training() -> None:
    params = json.loads((DATA / "params_mae.json").read_text())["s1"]
    model = from_config(params["cfg"], params["ratio"]).double()
    x, noise = torch.from_numpy(GOLDEN["mgp/x"]).double(), torch.from_numpy(GOLDEN["mgp/noise"])

    def loss_of(network: torch.nn.Module, epoch: int, step: int) -> torch.Tensor:
        return network(x[step], noise[epoch * MICRO + step]).loss

    groups = optim.param_groups(model, weight_decay=0.05, rule="mae")
    compare("mgp", model, run(model, groups, (0.9, 0.95), {"lr": 1e-3, "min_lr": 0.0}, loss_of))


def test_unfinished_accumulation_is_dropped() -> None:
    """A fifth micro-batch sets a rate and a gradient, and neither leaves a trace in the weights."""
    ends = []
    for batches in (4, 5):
        model, loss_of = fine_tuning("bft_balbce")
        groups = optim.param_groups(model, weight_decay=0.05, rule="layer_decay", decay=0.75)
        rates = {"lr": 2e-3, "min_lr": 1e-6}
        seen = run(model, groups, (0.9, 0.999), rates, loss_of, micro=5, batches=batches)
        assert len(seen) == 2 * batches
        ends.append(model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
