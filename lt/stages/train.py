"""`train`: a split or subset, optional initial weights -> model.safetensors, history.csv, metrics.json."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lt import artefact, distributed, engine, models, optim, rng, tasks
from lt.data.loader import Loader
from lt.errors import UserError
from lt.scratch import Scratch, hold, home, key_of
from lt.stages.batches import evaluation_loader, options_of, preset, steps_of
from lt.stages.common import Recipe, load_source, open_model, open_pack, open_split, set_threads
from lt.stages.devices import device_lines, device_summary, set_products
from lt.stages.networks import (
    check_groups,
    load_encoder,
    load_weights,
    network_of,
    network_options,
    save_weights,
)
from lt.stages.parts import loader_of, loss_of, meta_inputs
from lt.stages.progress import Progress


def train(
    recipe: str | Path,
    *,
    split: str | Path,
    out: str | Path,
    init: str | Path | None = None,
    teacher: str | Path | None = None,
    subset: str | Path | None = None,
    index: int | None = None,
    log: str | Path | None = None,
) -> None:
    """Train one stage and commit it; resume from its own state if it was stopped before."""
    started, recipe = time.time(), Recipe.read(recipe)
    if recipe.params.get("imported"):  # found by name: its code is no part of what other stages run
        return importlib.import_module("lt.stages.importing").stand_in(recipe, split=split, out=out)
    inputs = {"split": artefact.read(split)}
    if subset:
        inputs["subset"] = artefact.read(subset)
    if init:
        inputs["init"] = artefact.read(init)
    if teacher:
        inputs["teacher"] = artefact.read(teacher)
    if pack := open_pack(recipe.data, inputs["split"], "train"):
        inputs["pack"] = pack
    key = key_of(artefact.dump(recipe.raw), *(a.digest for a in inputs.values()), str(index))
    with distributed.ranks() as device, distributed.main_holds(hold(out, key)) as held:
        scratch = held or Scratch(home(out) / key)
        saved = scratch.load()
        threads = set_threads(saved["threads"] if saved else None)
        job = Job(recipe, inputs, index=index, device=device)
        with Progress(log, total=job.settings.epochs) as progress, engine.Stop().listen() as stop:
            for line in device_lines(job):
                progress.line(line)
            if job.loaded and not saved:
                progress.line(f"{init}: {job.loaded}" if job.params["load"] == "mgp" else job.loaded)
            if saved:
                job.state.load_state_dict(saved["state"])
                progress.line(f"resumed in epoch {job.state.epoch + 1}, step {job.state.step}")
            engine.fit(job.state, job.settings, job.hooks(scratch, progress, threads), stop)
        if distributed.is_main():
            with artefact.commit(out, recipe=recipe.raw, inputs=inputs, started=started) as draft:
                draft.extra = {"seed": recipe.seed, "index": index, "threads": threads, "device": str(device)}
                if job.loaded:
                    draft.extra["loaded"] = job.loaded
                job.write(draft, scratch)
        distributed.barrier()


class Job:
    """A training stage put together from its recipe."""

    def __init__(self, recipe: Recipe, inputs: dict, *, index: int | None, device: torch.device) -> None:
        self.recipe, self.params, self.device = recipe, recipe.params, device
        self.inputs, self.index = inputs, index
        set_products(recipe.params)
        self.seed = recipe.seed if index is None else rng.torch_seed(recipe.seed, "subset", index) >> 16
        _, self.split = open_split(inputs["split"].folder)
        self.indices = self.split.train
        if "subset" in inputs:
            self.indices = np.load(inputs["subset"] / "indices.npy", allow_pickle=False)
        self.source = load_source(recipe.data, "train", inputs.get("pack"))
        recorded = inputs["split"].manifest.get("data_digest")
        if recorded and recorded != self.source.digest:
            raise UserError(f"{recipe.data['family']}: the images changed since the split was made; run split again")
        self.labels = self.split.relabel(self.source.labels)
        self.loaded: str | None = None
        self.model = self._model(inputs.get("init"))
        self.loader = self._loader(self.indices)
        if self.params["redraw"]:  # found by name, as above
            self.loader = importlib.import_module("lt.stages.redraw").build(self, self._loader)
        self.settings = self._settings()
        self.state = self._state(inputs.get("teacher"))

    def _model(self, init: artefact.Artefact | None) -> nn.Module:
        p = self.params
        arch = p["net"] or self.recipe.raw["arch"]
        options = network_options(arch, self.recipe.data, p)
        model = models.build(arch, self.recipe.num_classes, seed=rng.torch_seed(self.seed, "init"), **options)
        if p["load"] == "none":
            init = None  # from scratch, whatever the graph offers
        if p["pretrained"] and init is None:
            importing = importlib.import_module("lt.stages.importing")  # as in `train`
            self.loaded = importing.load_pretrained(model, p["pretrained"])
        if p["batchformer"] is not None:
            models.add_batchformer(model, seed=rng.torch_seed(self.seed, "init", "batchformer"), **p["batchformer"])
        if p["bn_group"]:
            models.group_norms(model, p["bn_group"])
        if p["sync_bn"] and distributed.world() > 1:
            models.sync_norms(model)
        if init is not None and p["load"] == "mgp":
            self.loaded = load_encoder(model, init, seed=self.seed)
        elif init is not None:
            load_weights(model, open_model(init.folder)[1], what=p["load"], where=str(init.folder))
        if p["head"]:
            with torch.random.fork_rng(devices=[]):
                torch.random.default_generator.manual_seed(rng.torch_seed(self.seed, "init", "head"))
                models.set_head(model, p["head"]["name"], **options_of(p["head"]))
        if (p["trainable"], p["bn"]) != ("all", "train") or hasattr(model, "block_name"):
            models.freeze(model, train=p["trainable"], bn=p["bn"])
        layout = torch.channels_last if p["channels_last"] else torch.contiguous_format
        return model.to(self.device, memory_format=layout)

    def _loader(self, indices: np.ndarray) -> Loader:
        p = self.params
        micro = p["batch"] // p["accumulate"]
        if p["batch"] % (p["accumulate"] * distributed.world()):
            raise UserError(
                f"batch: the global batch {p['batch']} does not divide by accumulate {p['accumulate']} "
                f"x {distributed.world()} ranks"
            )
        check_groups(p, world=distributed.world())
        sampler = self._sampler(indices)
        loader = loader_of(sampler)(
            self.source,
            indices,
            labels=self.labels[indices],
            preset=preset(p["augment"], self.recipe.data, p, pixels=p["pixels"]),
            batch_size=micro,
            seed=self.seed,
            sampler=sampler,
            steps=steps_of(p["steps"], len(indices), micro),
            drop_last=p["steps"] == "floor",
            workers=p["workers"],
            device=self.device,
            resident=p["device"]["resident"],
            prefetch=p["device"]["prefetch"],
            rank=distributed.rank(),
            world=distributed.world(),
        )
        smallest = loader.size(len(loader) - 1)
        if smallest < distributed.world():
            raise UserError(
                f"batch: the last batch of an epoch has {smallest} images for {distributed.world()} ranks; "
                "start fewer ranks"
            )
        if len(loader) < p["accumulate"]:
            raise UserError(
                f"accumulate: {p['accumulate']} micro-batches make a step, but an epoch has only {len(loader)}"
            )
        return loader

    def _sampler(self, indices: np.ndarray) -> Any:
        chosen = self.params["sampler"]
        if not chosen:
            return None
        from lt.sampling import samplers

        return samplers.build(
            chosen["name"],
            labels=self.labels[indices],
            num_classes=self.recipe.num_classes,
            source=rng.stream(self.seed, "sampler"),
            **options_of(chosen),
        )

    def _settings(self) -> engine.Settings:
        p, name, options = self.params, self.params["schedule"]["name"], options_of(self.params["schedule"])
        updates = max(len(self.loader) // p["accumulate"], 1)
        if name == "mae":
            options |= {"accumulate": p["accumulate"], "micro_batches": len(self.loader)}
        by_update = optim.schedule(name, lr=p["lr"], epochs=p["epochs"], steps_per_epoch=updates, **options)
        return engine.Settings(
            epochs=p["epochs"],
            seed=self.seed,
            schedule=lambda epoch, step: by_update(epoch, step // p["accumulate"]),
            device=self.device,
            precision=engine.supported(p["precision"], self.device),
            channels_last=p["channels_last"],
            accumulate=p["accumulate"],
            clip=p["clip"],
            eval_every=p["eval_every"],
            compile=p["compile"],
            capture=p["device"]["capture"],
            read_every=p["device"]["read_every"],
            save_every_s=float(os.environ.get("LT_SAVE_EVERY_S", engine.SAVE_EVERY_S)),
        )

    def _state(self, teacher: artefact.Artefact | None) -> engine.TrainState:
        p, counts = self.params, self.split.class_counts
        parameters = optim.param_groups(
            self.model, weight_decay=p["weight_decay"], rule=p["groups"]["name"], **options_of(p["groups"])
        )
        optimizer = optim.optimizer(p["optimizer"]["name"], parameters, **options_of(p["optimizer"]))
        loss = loss_of(p, counts, seed=self.seed).to(self.device)
        given = dict(p["task_options"])
        if p["meta"]:
            own = {"source": self.source, "params": p, "seed": self.seed, "num_classes": self.recipe.num_classes}
            given |= meta_inputs(self.loader, optimizer, **own)
        if teacher is not None:
            given["teacher"] = network_of(teacher, self.recipe, self.device)
            if p["bn_group"]:  # it runs in training mode, on the same devices' shares
                models.group_norms(given["teacher"], p["bn_group"])
        task = tasks.build(p["task"], model=self.model, loss=loss, mix=self._mix(), **given)
        scaler = torch.amp.GradScaler(self.device.type) if self.settings.precision == "fp16" else None
        return engine.TrainState(
            model=self.model,
            optimizer=optimizer,
            task=task,
            loader=self.loader,
            scaler=scaler,
            ema=_average(self.model, p["ema"]),
        )

    def _mix(self) -> Any:
        from lt.tasks import mixing

        chosen = self.params["mix"]
        if not chosen:
            return None
        counts, classes = self.split.class_counts, self.recipe.num_classes
        return mixing.build(chosen["name"], num_classes=classes, class_counts=counts, **options_of(chosen))

    def hooks(self, scratch: Scratch, progress: Progress, threads: int) -> engine.Hooks:
        every = self.params["snapshots_every"]

        def save(state: engine.TrainState) -> None:
            if distributed.is_main():
                scratch.save({"state": state.state_dict(), "threads": threads})

        def epoch_end(state: engine.TrainState) -> None:
            if every and state.epoch % every == 0 and distributed.is_main():
                path = scratch.folder / "snapshots" / f"epoch{state.epoch}.safetensors"
                try:
                    save_weights(self.weights(), path)
                except OSError as error:
                    raise UserError(f"{path}: not written ({error.strerror}); run the same command again") from None

        return engine.Hooks(
            save=save,
            log=progress.epoch,
            validate=self._validator(),
            capture=lambda state, batch, step: capture(scratch, self, batch, step),
            epoch_end=epoch_end,
            after_step=lambda state: progress.step(state.epoch, state.step, len(self.loader)),
        )

    def _validator(self) -> Callable[[nn.Module], dict[str, float]] | None:
        """Top-1 on the validation images; a training stage never opens the test set."""
        if not self.params["eval_every"] or not self.split.parts.get("val") or not hasattr(self.model, "classify"):
            return None
        part = self.split.parts["val"]
        packed = open_pack(self.recipe.data, self.inputs["split"], part)
        source = self.source if part == "train" else load_source(self.recipe.data, part, packed)
        indices = np.arange(len(source.labels)) if self.split.val is None else self.split.val
        loader = evaluation_loader(
            source,
            indices,
            self.split.relabel(source.labels),
            self.params["eval_augment"],
            self.recipe,
            256,
            self.device,
            self.params,
        )

        def validate(model: nn.Module) -> dict[str, float]:
            was = model.training
            model.eval()
            counted = torch.zeros(2, dtype=torch.int64, device=self.device)  # hits, images
            with torch.no_grad(), engine.autocast(self.device, self.settings.precision):
                for batch in loader.epoch(0):
                    batch = engine.to_device(batch, self.settings)
                    counted[0] += (model(batch["image"]).argmax(1) == batch["target"]).sum()
                    counted[1] += len(batch["target"])
            model.train(was)
            hits, images = distributed.total(counted).tolist()
            return {"val_top1": 100 * hits / max(images, 1)}

        return validate

    def weights(self) -> dict[str, torch.Tensor]:
        model = self.state.ema.module if self.state.ema is not None else self.state.model
        return model.state_dict()

    def write(self, draft: artefact.Draft, scratch: Scratch) -> None:
        save_weights(self.weights(), draft / "model.safetensors")
        history = self.state.history
        fields = list(dict.fromkeys(k for row in history for k in row))
        with open(draft / "history.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fields, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: "" if v is None else f"{v:.8g}" for k, v in row.items()} for row in history)
        if self.params["redraw"]:
            self.loader.write(draft / "draws")
        snapshots = scratch.folder / "snapshots"
        if snapshots.exists():
            (draft / "snapshots").mkdir()
            for path in sorted(snapshots.iterdir()):  # copied: a commit that fails is made again from here
                shutil.copyfile(path, draft / "snapshots" / path.name)
        summary = {
            "epochs": self.settings.epochs,
            "updates": self.settings.epochs * (len(self.loader) // self.settings.accumulate),
            "images": self.settings.epochs * len(self.loader) * self.loader.batch_size,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "precision": self.settings.precision,
            "device": device_summary(self),
            **{k: v for k, v in history[-1].items() if k != "epoch"},
        }
        (draft / "metrics.json").write_text(artefact.dump(summary))


def _average(model: nn.Module, decay: float | None) -> nn.Module | None:
    if decay is None:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def capture(scratch: Scratch, job: Job, batch: dict, step: engine.Step) -> str:
    """What `lt replay` needs to run the failing step again."""
    path = scratch.folder / "nonfinite.pt"
    content = {
        "recipe": artefact.dump(job.recipe.raw),
        "inputs": {name: str(opened.folder) for name, opened in job.inputs.items()},
        "index": job.index,
        "state": job.state.state_dict(),
        "batch": batch,
        "step": asdict(step),
    }
    torch.save(content, path)
    return str(path)
