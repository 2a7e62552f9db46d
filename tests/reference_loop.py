"""Training written a second time, from the formulas: what `history.csv` of a run on digits must say.

Shared with the product: which images make up a batch and how they are augmented (Loader), the network and its
first weights, the draws of a mix. Not shared: losses, schedules, the optimiser's groups, the loop.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lt import models, rng
from lt.config import Config, Run
from lt.data import augment, mix, sources
from lt.data.loader import Loader
from lt.data.splits import Split

Loss = Callable[[Tensor, Tensor], Tensor]


def one_hot(y: Tensor, classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64)[y]


def ce(z: Tensor, y: Tensor) -> Tensor:
    return (torch.logsumexp(z, 1) - z[range(len(y)), y]).mean()


def focal(counts: Tensor) -> Loss:
    def loss(z: Tensor, y: Tensor) -> Tensor:
        p = z.softmax(1)[range(len(y)), y]
        return ((1 - p) ** 2 * -p.log()).mean()

    return loss


def effective(counts: Tensor, beta: float = 0.9999) -> Tensor:
    w = (1 - beta) / (1 - beta**counts)
    return w * len(counts) / w.sum()


def cb_ce(counts: Tensor) -> Loss:
    def loss(z: Tensor, y: Tensor) -> Tensor:
        w = effective(counts)[y]
        return (w * -z.log_softmax(1)[range(len(y)), y]).sum() / w.sum()

    return loss


def cb_focal(counts: Tensor) -> Loss:
    def loss(z: Tensor, y: Tensor) -> Tensor:
        t, p = one_hot(y, len(counts)), z.sigmoid()
        right = t * p + (1 - t) * (1 - p)
        modulator = (1 - p) * t + (1 - t) * p  # gamma 1
        return (effective(counts)[y][:, None] * modulator * -right.log()).sum() / len(y)

    return loss


def balanced_softmax(counts: Tensor) -> Loss:
    return lambda z, y: ce(z + counts.log(), y)


def lade(counts: Tensor) -> Loss:
    prior, classes = counts / counts.sum(), len(counts)

    def loss(z: Tensor, y: Tensor) -> Tensor:
        total = ce(z + prior.log(), y)
        for c in range(classes):
            own = z[y == c, c].sum() / ((y == c).sum() + 1e-8)
            other = torch.log(torch.exp(z[:, c] - torch.log(prior[c] + 1e-9) + math.log(1 / classes + 1e-9)).mean())
            total = total - 0.1 * prior[c] * (own - other - 0.1 * other**2)
        return total

    return loss


def eql(counts: Tensor, tail_ratio: float = 0.05) -> Loss:
    step = iter(range(10**6))

    def loss(z: Tensor, y: Tensor) -> Tensor:
        draw = torch.rand(z.shape, generator=torch.Generator().manual_seed(rng.torch_seed(0, "noise", next(step), 0)))
        tail = (counts / counts.sum() < tail_ratio)[None].expand_as(z)
        gone = (draw < 0.9) & tail & (one_hot(y, len(counts)) == 0)
        return ce(torch.where(gone, torch.tensor(-torch.inf, dtype=z.dtype), z), y)

    return loss


class Gala:
    """The published bookkeeping: three C x C matrices and a loop over the samples."""

    def __init__(self, counts: Tensor, lambda1: float = 1.2) -> None:
        c = len(counts)
        self.s, self.p = (torch.zeros(c, c, dtype=torch.float64) for _ in range(2))
        self.lambda1, self.same = lambda1, torch.eye(c, dtype=torch.float64)

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        a = z + self.lambda1 * torch.log(self.p.sum(1) + 1e-3)
        g = (a.detach().softmax(1) - one_hot(y, a.shape[1])) / len(y)
        value = ce(a, y)
        for row, label in zip(g.abs(), y.tolist(), strict=True):
            self.s[:, label] += row
        self.p += self.s * self.same
        return value


LOSSES: dict[str, Callable[[Tensor], Loss]] = {
    "ce": lambda counts: ce,
    "bagmar_ce": lambda counts: ce,
    "remix": lambda counts: ce,
    "focal": focal,
    "cb_ce": cb_ce,
    "cb_focal": cb_focal,
    "balanced_softmax": balanced_softmax,
    "logit_adjustment": balanced_softmax,
    "lade": lade,
    "eql": eql,
    "bagmar": Gala,
    "bagmar_lambda1": lambda counts: Gala(counts, lambda1=1.0),
}


def rates(method: str, epochs: int, lr: float) -> list[float]:
    """ce: half a cosine from lr; BaGMar: 0.05, then lr in epoch 2, then half a cosine to 0 in the last epoch."""
    if not method.startswith("bagmar"):
        return [lr * (1 + math.cos(math.pi * e / epochs)) / 2 for e in range(epochs)]
    return [0.05] + [lr * (1 + math.cos(math.pi * e / (epochs - 2))) / 2 for e in range(epochs - 1)]


def remixed(images: Tensor, y: Tensor, counts: Tensor, *, epoch: int, step: int) -> tuple[Tensor, Callable]:
    drawn = mix.draw_mixup(rng.stream(0, "mixup", epoch, step, 0), len(images), 0.2)
    other, lam = y[torch.from_numpy(drawn.perm)], float(drawn.lam)
    shares = []
    for a, b in zip(counts[y].tolist(), counts[other].tolist(), strict=True):
        shares.append(0.0 if a / b >= 3 and lam < 0.5 else 1.0 if a / b <= 1 / 3 and 1 - lam < 0.5 else lam)
    share = torch.tensor(shares, dtype=torch.float64)

    def loss(z: Tensor) -> Tensor:
        log_p, rows = z.log_softmax(1), range(len(y))
        return -(share * log_p[rows, y] + (1 - share) * log_p[rows, other]).mean()

    return lam * images + (1 - lam) * images[torch.from_numpy(drawn.perm)], loss


def curve(config: Config, run: Run, split: Path) -> list[float]:
    """The mean loss of every epoch."""
    stage, data = config.stage(run, "train").params, config.dataset(run.dataset)
    source, lists = sources.load(data.model_dump(), "train"), Split.read(split)
    counts = torch.from_numpy(np.bincount(source.labels[lists.train], minlength=10)).double()
    bagmar = run.method.startswith("bagmar")
    preset = augment.build("crop_flip", mean=data.image.mean, std=data.image.std, pad=1, mirror=False)
    steps = len(lists.train) // 64 if bagmar else math.ceil(len(lists.train) / 64)
    loader = Loader(source, lists.train, preset=preset, batch_size=64, seed=run.seed, steps=steps, drop_last=bagmar)
    options = {"init": "bagmar"} if bagmar else {}
    model = models.build("resnet8", 10, seed=rng.torch_seed(run.seed, "init"), in_channels=1, **options)
    model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
    loss, found = LOSSES[run.method](counts), []
    for epoch, rate in enumerate(rates(run.method, stage.epochs, stage.lr)):
        optimiser.param_groups[0]["lr"] = rate
        total = seen = 0
        for step, batch in enumerate(loader.epoch(epoch)):
            images, y = batch["image"].contiguous(memory_format=torch.channels_last), batch["target"]
            judge = lambda z, y=y: loss(z, y)
            if run.method == "remix":
                images, judge = remixed(images, y, counts, epoch=epoch, step=step)
            value = judge(model(images).double())
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            total, seen = total + value.item() * len(y), seen + len(y)
        found.append(total / seen)
    return found


def history(folder: Path) -> list[float]:
    with open(folder / "history.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
