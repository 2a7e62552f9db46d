"""IP-DPP inside fine-tuning: the training list is drawn anew from the model as it stands, every few epochs.

The released loop draws before epoch 0 and before epoch t (0-based) where t + 1 is a multiple of `every` and not the
last epoch. Every list becomes an output of the stage; drawn lists are part of the resumable state, and a draw is a
function of (seed, number, model), so a run that was stopped continues on the same lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lt import artefact, distributed, rng
from lt.data.loader import Batch, Loader
from lt.sampling import dpp
from lt.sampling.balanced import by_class
from lt.stages.batches import preset

# number of the draw -> p [n] and features [n, d], or None, of the images whose class is too large
Look = Callable[[int], tuple[np.ndarray, np.ndarray | None]]
RELEASED_SEED = 42


def redraw_epochs(every: int, epochs: int) -> list[int]:
    """Epochs (0-based) that a draw comes before; `every: 0` keeps the first one."""
    later = range(every - 1, epochs - 1, every) if every else ()
    return sorted({0, *later})


def reduced(labels: np.ndarray, k: int) -> np.ndarray:
    """Positions of the images whose class holds more than k: only they are looked at, the others stay anyway."""
    return np.flatnonzero(np.bincount(labels)[labels] > k)


def draw(labels: np.ndarray, p: np.ndarray, features: np.ndarray | None, *, rule: dict, seed: int, number: int) -> Any:
    """Draw `number` of a run: positions in the list.

    The released sampler seeds its generator with 42 in every call, so that all its draws are equal; `reseed: false`
    lets one such generator run on instead.
    """
    options = {"sampler": rule["sampler"], "kernel": rule["kernel"], "p": p, "features": features}
    options["steps"] = rule.get("mcmc_steps")
    if rule["sampler"] not in dpp.RELEASED:
        return dpp.draw(labels, rule["k"], source=rng.stream(seed, "subset", "redraw", number), **options)
    source = np.random.RandomState(RELEASED_SEED)
    for _ in range(0 if rule["reseed"] else number):
        dpp.draw(labels, rule["k"], source=source, **options)
    return dpp.draw(labels, rule["k"], source=source, **options)


def record(
    labels: np.ndarray,
    picked: np.ndarray,
    p: np.ndarray,
    features: np.ndarray | None,
    *,
    kernel: str,
    previous: np.ndarray | None,
) -> list[dict[str, Any]]:
    """`lt.sampling.dpp.describe`; for a feature kernel log det F F' takes the place of the other kernels'.

    Of a class that stays whole nothing was measured: p is NaN there, and its entries are None.
    """
    kernel = kernel if features is None else "paper"
    rows = dpp.describe(labels, picked, p=np.nan_to_num(p), kernel=kernel, previous=previous)
    for row, (_, positions) in zip(rows, sorted(by_class(labels).items()), strict=True):
        if np.isnan(p[positions]).any():
            row.update(mean_p=None, mean_p_kept=None, log_det=None)
        if features is None or row["log_det"] is None:
            continue
        chosen = features[positions[np.isin(positions, picked)]].astype(np.float64)
        sign, value = np.linalg.slogdet(chosen @ chosen.T)
        row["log_det"] = float(value) if sign > 0 and np.isfinite(value) else None
    return rows


class Redrawn:
    """A loader whose list changes between epochs. Every draw has min(N_c, k) images a class, so its length stays."""

    def __init__(
        self,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        rule: dict[str, Any],
        epochs: int,
        seed: int,
        make: Callable[[np.ndarray], Loader],
        look: Look,
    ) -> None:
        self.indices, self.labels, self.rule, self.seed = indices, labels, rule, seed
        self.make, self.look, self.when = make, look, redraw_epochs(rule["every"], epochs)
        self.asked = reduced(labels, rule["k"])
        self.draws: list[np.ndarray] = []  # positions in the list
        self.seen: list[np.ndarray] = []  # p of the whole list at each draw, NaN where it decides nothing
        self.records: list[dict[str, Any]] = []
        sizes = [positions[: rule["k"]] for positions in by_class(labels).values()]
        self.loader = make(indices[np.concatenate(sizes)])  # for its length; no batch comes from it

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def batch_size(self) -> int:
        return self.loader.batch_size

    def size(self, step: int) -> int:
        return self.loader.size(step)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of this epoch from step `start` on, after a draw where one is due and not yet made."""
        if epoch in self.when and len(self.draws) == self.when.index(epoch):
            self._draw(epoch)
        return self.loader.epoch(epoch, start=start)

    def _draw(self, epoch: int) -> None:
        number = len(self.draws)
        p, features = self._looked_at(number)
        picked = draw(self.labels, np.nan_to_num(p), features, rule=self.rule, seed=self.seed, number=number)
        previous = self.draws[-1] if self.draws else None
        rows = record(self.labels, picked, p, features, kernel=self.rule["kernel"], previous=previous)
        self.records.append({"draw": number, "epoch": epoch, "images": len(picked), **self.rule, "classes": rows})
        self.draws.append(picked)
        self.seen.append(p)
        self.loader = self.make(self.indices[picked])

    def _looked_at(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """p and features over the whole list."""
        p = np.full(len(self.labels), np.nan, dtype=np.float32)
        if not len(self.asked):
            return p, np.zeros((len(p), 0)) if self.rule["kernel"] == "features" else None
        p[self.asked], found = self.look(number)
        if found is None:
            return p, None
        features = np.zeros((len(p), found.shape[1]), dtype=found.dtype)
        features[self.asked] = found
        return p, features

    def state_dict(self) -> dict[str, Any]:
        return {
            "draws": [torch.from_numpy(each) for each in self.draws],
            "seen": [torch.from_numpy(each) for each in self.seen],
            "records": list(self.records),
            "loader": self.loader.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = [each.cpu().numpy() for each in state["draws"]]
        self.seen = [each.cpu().numpy() for each in state["seen"]]
        self.records = list(state["records"])
        if self.draws:
            self.loader = self.make(self.indices[self.draws[-1]])
        self.loader.load_state_dict(state["loader"])

    def write(self, folder: Path) -> None:
        """draw<k>.npy: positions in the source, as in a subset; p<k>.npy: p along the training list."""
        folder.mkdir()
        for number, (picked, p) in enumerate(zip(self.draws, self.seen, strict=True)):
            np.save(folder / f"draw{number}.npy", self.indices[picked].astype(np.int64), allow_pickle=False)
            np.save(folder / f"p{number}.npy", p, allow_pickle=False)
        (folder / "draws.json").write_text(artefact.dump(self.records))


def probabilities(
    model: nn.Module, loader: Loader, number: int, *, device: torch.device, features: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The soft-max probability of every image's own label, in evaluation mode and float32, in the list's order."""
    was, rows = model.training, {"p": [], "index": [], "features": []}
    model.eval()
    with torch.no_grad():
        for batch in loader.epoch(number):
            images = batch["image"].to(device).contiguous(memory_format=torch.channels_last)
            target = batch["target"].to(device)
            found = model.features(images)
            share = model.classify(found).float().softmax(1)
            rows["p"].append(share.gather(1, target[:, None])[:, 0])
            rows["index"].append(batch["index"].to(device))
            rows["features"].append(found.float() if features else found.new_zeros((len(found), 0)))
    model.train(was)
    joined = {name: distributed.gather_rows(torch.cat(parts)).cpu() for name, parts in rows.items()}
    p, found = _in_order(joined, torch.from_numpy(loader.indices))
    return p.numpy(), found.numpy() if features else None


def _in_order(joined: dict[str, Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as the list has them: ranks bring theirs one after the other."""
    place = torch.empty(int(indices.max()) + 1, dtype=torch.int64)
    place[joined["index"]] = torch.arange(len(joined["index"]))
    return joined["p"][place[indices]], joined["features"][place[indices]]


def build(job: Any, make: Callable[[np.ndarray], Loader]) -> Redrawn:
    """The redrawing loader of a training stage, whose images p is measured on as `p_transform` says."""
    rule, p = job.params["redraw"], job.params
    chosen = p["augment"] if rule["p_transform"] == "train" else p["eval_augment"]
    labels = job.labels[job.indices]
    asked = job.indices[reduced(labels, rule["k"])]

    def look(number: int) -> tuple[np.ndarray, np.ndarray | None]:
        loader = Loader(
            job.source,
            asked,
            labels=job.labels[asked],
            preset=preset(chosen, job.recipe.data, p),
            batch_size=256 * distributed.world(),
            seed=rng.torch_seed(job.seed, "subset", "redraw") >> 16,
            shuffle=False,
            workers=p["workers"],
            device=job.device,
            rank=distributed.rank(),
            world=distributed.world(),
        )
        wanted = rule["kernel"] == "features"
        return probabilities(job.model, loader, number, device=job.device, features=wanted)

    return Redrawn(job.indices, labels, rule=rule, epochs=p["epochs"], seed=job.seed, make=make, look=look)
