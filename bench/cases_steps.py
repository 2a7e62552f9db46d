"""Training steps: the engine's own path against the ordinary loop, same weights, same draws."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import ordinary
from bench.cases_images import CIFAR, pictures, planes
from bench.harness import Case
from lt import engine, losses, models, optim, tasks
from lt.data import augment, sources
from lt.data.loader import Loader, draw_rows

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4}
Outcome = tuple[float, torch.Tensor]


def source_of(pixels: np.ndarray, classes: int) -> sources.Source:
    labels = np.arange(len(pixels)) % classes
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return sources.Source("bench", labels, classes, images=images)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def task_of(network: nn.Module, classes: int) -> Any:
    loss = losses.build("cross_entropy", class_counts=np.ones(classes, dtype=np.int64))
    return tasks.build("classify", model=network, loss=loss, mix=None)


class Engine:
    """`engine.fit` over one epoch, from the same start each time."""

    def __init__(self, network: nn.Module, loader: Any, classes: int, *, precision: str, channels_last: bool) -> None:
        self.network, self.loader, self.classes = network, loader, classes
        if channels_last:
            network.to(memory_format=torch.channels_last)
        self.start = copy.deepcopy(network.state_dict())
        self.settings = engine.Settings(
            epochs=1,
            seed=0,
            schedule=lambda epoch, step: SGD["lr"],
            device=torch.device("cpu"),
            precision=precision,
            channels_last=channels_last,
        )

    def __call__(self) -> Outcome:
        self.network.load_state_dict(self.start)
        groups = optim.param_groups(self.network, weight_decay=SGD["weight_decay"])
        optimizer = optim.optimizer("sgd", groups)
        state = engine.TrainState(self.network, optimizer, task_of(self.network, self.classes), self.loader)
        engine.fit(state, self.settings, engine.Hooks(), engine.Stop())
        return state.history[-1]["loss"], weights(self.network)


def agree(loss: float, step: float, start: torch.Tensor) -> Any:
    """Losses within `loss` and the way the weights went within `step`, both relative."""

    def same(a: Outcome, b: Outcome) -> None:
        assert abs(a[0] - b[0]) <= loss * abs(a[0]), f"losses {a[0]} and {b[0]}"
        moved, other = a[1] - start, b[1] - start
        assert (moved - other).norm() <= step * moved.norm(), f"{(moved - other).norm() / moved.norm()}"

    return same


def same_in_float64(network: nn.Module, pixels: np.ndarray, start: dict[str, torch.Tensor]) -> None:
    """Both ways in float64, where neither layout nor the order of a sum can tip a ReLU: the step within 1e-9."""
    networks = [copy.deepcopy(network).double() for _ in range(2)]
    for each in networks:
        each.load_state_dict(start)
    first = weights(networks[0])
    images, target = planes(pixels).double().div(255).sub(0.5), torch.arange(len(pixels)) % 100
    optimizer = torch.optim.SGD(networks[0].parameters(), foreach=False, **SGD)
    found = ordinary.train_steps(networks[0], optimizer, [(images, target)], nn.CrossEntropyLoss())
    batch = {"image": images, "target": target, "index": torch.arange(len(pixels))}
    ours = Engine(networks[1], Ready([batch]), 100, precision="fp32", channels_last=True)
    agree(1e-9, 1e-9, first)((float(np.mean(found)), weights(networks[0])), ours())


def resnet32(precision: str, batch: int = 128, steps: int = 1) -> Case:
    """P3 and P4: augmentation, network, loss, optimiser and metrics of an epoch."""
    preset, pixels, n = augment.build("crop_flip", **CIFAR), pictures(batch * steps), batch * steps
    source = source_of(pixels, 100)
    loader = Loader(source, preset=preset, batch_size=batch, seed=0)
    network = models.build("resnet32", 100, seed=0)
    start, first = copy.deepcopy(network.state_dict()), weights(network)

    plain = models.build("resnet32", 100, seed=0)

    def old() -> Outcome:
        plain.load_state_dict(start)
        optimizer = torch.optim.SGD(plain.parameters(), foreach=False, **SGD)
        order = loader.order(0)
        rows = draw_rows(order, n=n, columns=preset.columns, seed=0, epoch=0)

        def batches() -> Any:
            for part in np.arange(n).reshape(steps, batch):
                pile = ordinary.crop_flip(pixels[order[part]], rows[part], CIFAR["mean"], CIFAR["std"])
                yield pile, torch.from_numpy(source.labels[order[part]])

        found = ordinary.train_steps(plain, optimizer, batches(), nn.CrossEntropyLoss())
        return float(np.mean(found)), weights(plain)

    fp32 = precision == "fp32"
    close = agree(1e-5, 2e-2, first) if fp32 else agree(2e-2, 0.3, first)

    def same(a: Outcome, b: Outcome) -> None:
        close(a, b)
        same_in_float64(network, pixels[:16], start)

    return Case(
        id="P3" if fp32 else "P4",
        what=f"ResNet-32 step end to end, {precision}, channels last",
        ordinary=old,
        ours=Engine(network, loader, 100, precision=precision, channels_last=True),
        same=same,
        tolerance="step 1e-9 in float64; "
        + ("fp32: loss 1e-5, step 2 % (ReLUs at the edge)" if fp32 else "bf16: loss 2 %, step 30 % (its rounding)"),
        demand=1.2 if fp32 else 1.8,
        items=n,
        unit="image",
        anchor=ordinary.ANCHORS["resnet32_step"],
        budget_s=9.0,
    )


def vit(batch: int = 16) -> Case:
    """P5: ViT-Ti with patches of 4 on 32 x 32."""
    network = models.build("vit_tiny", 100, seed=0, img_size=32, patch_size=4)
    start, first = copy.deepcopy(network.state_dict()), weights(network)
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target, task = torch.arange(batch) % 100, task_of(network, 100)

    def run(precision: str, fused: bool) -> tuple[float, torch.Tensor, torch.Tensor]:
        network.load_state_dict(start)
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=fused, foreach=False)
        device = torch.device("cpu")
        with engine.autocast(device, precision):
            loss = task(network, {"image": images, "target": target}, engine.Step(0, 0, 0))["loss"]
        loss.backward()
        optimizer.step()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        optimizer.zero_grad(set_to_none=True)
        return loss.item(), gradient, weights(network)

    def same(a: tuple, b: tuple) -> None:
        assert abs(a[0] - b[0]) <= 1e-3 * a[0]
        assert (a[1] - b[1]).norm() <= 2e-2 * a[1].norm(), f"{(a[1] - b[1]).norm() / a[1].norm()}"
        exact = run("fp32", True)
        assert a[0] == exact[0]
        assert torch.equal(a[1], exact[1])
        assert (a[2] - exact[2]).norm() <= 1e-5 * (a[2] - first).norm()

    return Case(
        id="P5",
        what="ViT-Ti/4 step at 32 x 32, bf16",
        ordinary=lambda: run("fp32", False),
        ours=lambda: run("bf16", True),
        same=same,
        tolerance="fp32: gradient identical, step 1e-5; bf16: loss 0.1 %, gradient 2 %",
        demand=1.7,
        items=batch,
        unit="image",
        anchor=ordinary.ANCHORS["vit_step"],
        budget_s=6.0,
    )


class Ready:
    """A loader whose batches are there already."""

    def __init__(self, batches: list[dict[str, torch.Tensor]]) -> None:
        self.batches = batches

    def epoch(self, epoch: int, start: int = 0) -> Any:
        return iter(self.batches[start:])

    def state_dict(self) -> dict[str, Any]:
        return {}


def loop_overhead(steps: int = 40) -> Case:
    """P15: the engine around a small network against forward, backward, step and nothing else."""
    source, batch = torch.Generator().manual_seed(0), 64
    batches = [
        {
            "image": torch.rand(batch, 1, 8, 8, generator=source),
            "target": torch.arange(batch) % 10,
            "index": torch.arange(batch),
        }
        for _ in range(steps)
    ]
    ours = Engine(
        models.build("resnet8", 10, seed=0, in_channels=1), Ready(batches), 10, precision="fp32", channels_last=False
    )
    network = models.build("resnet8", 10, seed=0, in_channels=1)
    first = weights(network)

    def bare() -> Outcome:
        network.load_state_dict(ours.start)
        network.train()
        optimizer = optim.optimizer("sgd", optim.param_groups(network, weight_decay=SGD["weight_decay"]))
        for group in optimizer.param_groups:
            group["lr"] = SGD["lr"]
        total = 0.0
        for item in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(network(item["image"]), item["target"])
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / steps, weights(network)

    return Case(
        id="P15",
        what="bare loop over engine, ResNet-8 on 8 x 8, batch 64 (at least 1/1.05)",
        ordinary=bare,
        ours=ours,
        same=agree(1e-6, 1e-5, first),
        tolerance="1e-6, 1e-5",
        demand=1 / 1.05,
        items=steps,
        unit="step",
        rounds=9,
        budget_s=8.0,
    )


CASES = {
    "resnet32_fp32": lambda **size: resnet32("fp32", **size),
    "resnet32_bf16": lambda **size: resnet32("bf16", **size),
    "vit": vit,
    "loop_overhead": loop_overhead,
}
BF16 = ("resnet32_bf16", "vit")
SMALL = {
    "resnet32_fp32": {"batch": 16},
    "resnet32_bf16": {"batch": 16},
    "vit": {"batch": 4},
    "loop_overhead": {"steps": 3},
}
