"""`lt replay PATH`: the step whose loss stopped being a number, run again from its capture."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lt.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", type=Path, help="scratch/.../nonfinite.pt, as the failed job named it")


def main(given: argparse.Namespace) -> None:
    for line in replay(read(given.capture)):
        print(line, flush=True)


def read(path: Path) -> dict[str, Any]:
    import torch

    if not path.is_file():
        raise UserError(f"{path}: no such capture; a job that stops with exit code 76 names its own")
    try:
        captured = torch.load(path, map_location="cpu", weights_only=True)
        captured["recipe"], captured["state"], captured["batch"], captured["step"], captured["inputs"]
    except Exception as error:  # whatever a damaged file provokes
        raise UserError(f"{path}: not a capture of a step ({type(error).__name__})") from None
    return captured


def replay(captured: dict[str, Any]) -> Iterator[str]:
    """Build the stage again, put the captured state back, take the step, and look at every tensor on the way."""
    import torch

    from lt import artefact, distributed, engine, rng
    from lt.stages.common import Recipe
    from lt.stages.train import Job

    recipe = Recipe(json.loads(captured["recipe"]))
    recipe.params["pretrained"] = None  # the captured weights replace them
    inputs = {name: artefact.read(folder) for name, folder in captured["inputs"].items()}
    with distributed.ranks() as device:
        job = Job(recipe, inputs, index=captured["index"], device=device)
        job.state.load_state_dict(captured["state"])
        step = engine.Step(**captured["step"])
        job.state.model.train()
        job.state.task.start_epoch(step.epoch)
        batch = engine.to_device(captured["batch"], job.settings)
        yield (
            "/".join(recipe.raw[k] for k in ("dataset", "method", "arch")) + f"/seed{recipe.seed}/{recipe.raw['stage']}"
        )
        yield f"epoch {step.epoch + 1}, step {step.step + 1}, lr {job.settings.schedule(step.epoch, step.step):.6g}"
        yield from _tensors("batch", batch.items())
        yield from _tensors("weight", job.state.model.state_dict().items())
        if job.state.task.stochastic:
            torch.manual_seed(rng.torch_seed(step.seed, "dropout", step.epoch, step.step, step.rank))
        with engine.autocast(device, job.settings.precision), Watch(job.state.model) as watch:
            result = job.state.task(job.state.model, batch, step)
        yield from watch.lines()
        if result.get("logits") is not None:
            yield from _tensors("logits", [("logits", result["logits"])])
        loss = result["loss"].item()
        yield f"loss {loss}"
        if math.isfinite(loss):
            yield "the loss is finite here: another device, precision or thread count made it otherwise"
            return
        result["loss"].backward()
        bad = [n for n, p in job.state.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        yield f"gradient: {len(bad)} of {sum(1 for _ in job.state.model.parameters())} parameters not finite" + (
            f", first {bad[0]}" if bad else ""
        )


def _tensors(kind: str, named: Any) -> Iterator[str]:
    """The first of these tensors that is not finite, where it is, and the range of the others."""
    import torch

    worst, bad = 0.0, None
    for name, value in named:
        for tensor in value if isinstance(value, tuple | list) else (value,):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                continue
            if bad is None and not tensor.isfinite().all():
                at = torch.nonzero(~tensor.detach().isfinite())[0].tolist()
                count = int((~tensor.detach().isfinite()).sum())
                bad = f"{kind}: first not finite: {name} {tuple(tensor.shape)}, {count} values, first at {at}"
            elif tensor.numel():
                worst = max(worst, float(tensor.detach().nan_to_num(0, 0, 0).abs().max()))
    yield bad or f"{kind}: finite, largest magnitude {worst:.6g}"


class Watch:
    """Forward hooks on every module; remembers the first output that is not finite."""

    def __init__(self, model: Any) -> None:
        self.model, self.first, self.seen = model, None, 0

    def __enter__(self) -> Watch:
        named = list(self.model.named_modules())
        self.handles = [m.register_forward_hook(self._hook(n or type(m).__name__)) for n, m in named]
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str):
        def look(module: Any, _given: Any, output: Any) -> None:
            self.seen += 1
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if self.first is None and hasattr(tensor, "isfinite") and not tensor.isfinite().all():
                    self.first = f"{name} ({type(module).__name__})"

        return look

    def lines(self) -> Iterator[str]:
        yield f"forward: first not finite: {self.first}" if self.first else f"forward: {self.seen} outputs, all finite"
