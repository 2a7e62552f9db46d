"""What a training stage makes of its `device` switches on this machine: what is used, and why something is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lt import engine
from lt.device import skippable


def set_products(params: dict[str, Any]) -> None:
    """fp32 matrix products: exact, or in TF32 where the recipe allows it. Convolutions keep PyTorch's default, TF32."""
    torch.set_float32_matmul_precision("high" if params["device"]["tf32"] else "highest")


def device_summary(job: Any) -> dict[str, Any]:
    """For the stage's metrics: the ways that it really went."""
    cuda = job.device.type == "cuda"
    return {
        "type": job.device.type,
        "tf32_products": bool(job.params["device"]["tf32"]) and cuda,
        "tf32_convolutions": bool(torch.backends.cudnn.allow_tf32) and cuda,
        "channels_last": job.settings.channels_last,
        "fused": all(bool(group.get("fused")) for group in job.state.optimizer.param_groups),
        "captured": job.settings.capture and not engine.why_not_captured(job.state, job.settings),
        "compiled": job.settings.compile,
        "read_every": engine.looks_every(job.state, job.settings),
    }


def device_lines(job: Any) -> Iterator[str]:
    """The log's first lines: a switch that is on, or why it is not."""
    asked, found = job.params["precision"], job.settings.precision
    if asked != found:
        yield f"precision: {asked} is not native to this device; training in {found}"
    switches = job.params["device"]
    if switches["tf32"]:
        used = "fp32 matrix products in TF32" if job.device.type == "cuda" else "no CUDA device; products stay in fp32"
        yield f"tf32: {used}"
    if switches["capture"]:
        reason = engine.why_not_captured(job.state, job.settings)
        yield f"capture: not used ({reason})" if reason else "capture: whole steps are recorded and replayed"
    if switches["read_every"] > 1:
        every = engine.looks_every(job.state, job.settings)
        why = "" if every > 1 else " (the optimiser or the task cannot wait)"
        yield f"read_every: the loss is looked at every {every} updates{why}"
    if job.settings.compile:
        yield "compile: the network is compiled in its first steps"
    if job.device.type == "cuda":
        where = job.loader.where() if hasattr(job.loader, "where") else "drawn anew"
        ahead = "the next batch on a stream of its own" if switches["prefetch"] else "no prefetch"
        fused = "fused" if skippable(job.state.optimizer) else "not fused"
        yield f"device: {torch.cuda.get_device_name(job.device)}; images: {where}; {ahead}; optimiser {fused}"
