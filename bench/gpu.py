"""Training steps on an accelerator: images a second, share of peak, memory, wait for data; ours over the ordinary way.

`python -m bench.gpu [--only NAME] [--seconds S] [--out FILE]` prints a JSON line a network, writes a table, and says so
where there is no device. CUDA events after a warm-up; both ways in the same run. Ordinary: fp32 (TF32 in convolutions,
PyTorch's default), NCHW, loop optimiser, a loss read back every step. Ours: bf16, channels last, fused, and for the
networks of 32 pixels the step replayed as a graph. `--device cpu` runs every line of this file at toy sizes: a test of
the file, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt import engine, models
from lt.data import augment, sources
from lt.data.loader import Loader
from lt.device import Captured

WARM_UP = 10
CIFAR100_LT = 10_847  # images at imbalance factor 100; 200 epochs are what the recipes train


@dataclass(frozen=True)
class Network:
    arch: str
    batch: int
    size: int
    gflop: float  # of one trained image, forward and backward
    classes: int = 1000
    options: tuple[tuple[str, Any], ...] = ()
    capture: bool = False  # the host launches more kernels than it has time for


NETWORKS = {
    "resnet32": Network("resnet32", 128, 32, 0.41, classes=100, capture=True),
    "ride3": Network("ride_resnet32", 128, 32, 0.82, classes=100, options=(("experts", 3),), capture=True),
    "resnet50": Network("resnet50", 256, 224, 24.5),
    "resnext50": Network("resnext50", 256, 224, 25.4),
    "resnet152": Network("resnet152", 128, 224, 69.0),
    "vit_base": Network("vit_base", 128, 224, 105.0),
    "mae_base": Network("mae_base", 128, 224, 57.0),
}


def loss_of(network: torch.nn.Module, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if hasattr(network, "num_patches"):  # a masked autoencoder: any mask costs the same
        noise = torch.rand(len(images), network.num_patches, device=images.device)
        return network(images, noise).loss
    logits = network(images)
    logits = logits.mean(1) if logits.ndim == 3 else logits
    return torch.nn.functional.cross_entropy(logits.float(), target)


def stepper(spec: Network, device: torch.device, *, ours: bool) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One whole step on a batch that is on the device."""
    network = models.build(spec.arch, spec.classes, seed=0, **dict(spec.options)).to(device).train()
    if ours:
        network = network.to(memory_format=torch.channels_last)
    rate = {"lr": 0.01, "momentum": 0.9}
    optimizer = torch.optim.SGD(network.parameters(), **rate, **({"fused": True} if ours else {"foreach": False}))
    precision = engine.supported("bf16", device) if ours else "fp32"
    captured = ours and spec.capture

    def step(images: torch.Tensor, target: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=ours)
        images = images.contiguous(memory_format=torch.channels_last) if ours else images
        with engine.autocast(device, precision, cache=not captured):
            loss = loss_of(network, images, target)
        loss.backward()
        optimizer.step()
        if not ours:
            loss.item()

    return Captured(step, device, spec.batch) if captured else step


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Of one call, by events on the device."""
    for _ in range(WARM_UP):
        work()
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return (time.perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3 / repeats


def peak_tflops(device: torch.device, dtype: torch.dtype = torch.bfloat16, size: int = 8192) -> float:
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b), device, 20) / 1e12


def data_wait(spec: Network, step: Callable, plain: float, device: torch.device, steps: int) -> float:
    """Per cent of a step's time that real batches (uint8 in memory, augmented on the device) add to it."""
    images = np.random.default_rng(0).integers(0, 256, (4 * spec.batch, 3, spec.size, spec.size), dtype=np.uint8)
    source = sources.Source("bench", np.arange(len(images)) % spec.classes, spec.classes, images=images)
    preset = augment.build("crop_flip", mean=(0.5,) * 3, std=(0.25,) * 3)
    loader = Loader(source, preset=preset, batch_size=spec.batch, seed=0, device=device, steps=steps + WARM_UP)
    batches = loader.epoch(0)

    def one() -> None:
        batch = next(batches)
        step(batch["image"], batch["target"])

    return 100 * (seconds_of(one, device, steps) / plain - 1)


def measure(name: str, device: torch.device, *, seconds: float, peak: float) -> dict[str, Any]:
    spec = NETWORKS[name] if device.type == "cuda" else replace(NETWORKS[name], batch=2)
    found: dict[str, Any] = {"network": name, "batch": spec.batch, "captured": spec.capture}
    images = torch.randn(spec.batch, 3, spec.size, spec.size, device=device)
    target = torch.arange(spec.batch, device=device) % spec.classes
    step = None
    for side, ours in (("ordinary", False), ("ours", True)):
        del step  # the other way's network is no part of this one's memory
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        step = stepper(spec, device, ours=ours)
        first = seconds_of(lambda step=step: step(images, target), device, 5)
        repeats = max(10, int(seconds / first))
        each = seconds_of(lambda step=step: step(images, target), device, repeats)
        found[f"{side}_images_s"] = round(spec.batch / each)
        if device.type == "cuda":
            found[f"{side}_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
        if ours:
            found["share_of_peak"] = round(spec.gflop * spec.batch / each / 1e3 / peak, 3)
            wait = data_wait(spec, step, each, device, min(repeats, 60))
            found["data_wait_percent"] = round(wait, 1)
            if spec.arch == "resnet32":
                found["cifar100_lt_200_epochs_s"] = round(200 * CIFAR100_LT / spec.batch * each * (1 + wait / 100))
    found["ratio"] = round(found["ours_images_s"] / found["ordinary_images_s"], 2)
    return found


def table(head: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """One line a network, under the card, the versions and the command."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    facts = ", ".join(f"{key} {value}" for key, value in head.items())
    return f"Measured on: {facts}.\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=NETWORKS, action="append")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each way of each network")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="a markdown file, e.g. docs/reference/accelerator.md")
    given = parser.parse_args(argv)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return 0
    device, rows = torch.device(given.device), []
    peak = peak_tflops(device, size=8192 if device.type == "cuda" else 128)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu (toy sizes)"
    command = " ".join(["python -m bench.gpu", *(sys.argv[1:] if argv is None else argv)])
    head = {"device": name, "bf16_tflops": round(peak, 1), "torch": torch.__version__, "cuda": torch.version.cuda}
    head["command"] = f"`{command}`"
    print(json.dumps(head), flush=True)
    for network in given.only or NETWORKS:
        rows.append(measure(network, device, seconds=given.seconds, peak=peak))
        print(json.dumps(rows[-1]), flush=True)
        if given.out:
            given.out.write_text(table(head, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
