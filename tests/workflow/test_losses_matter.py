"""The first loss of a stage, run by Snakemake, is that of the paper's formula; one wrong line of a loss shows in it
and in the golden numbers. (BaGMar's and the baselines' are in test_bagmar.py and test_baselines.py.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference_loop as reference
import torch
import yaml
from torch import Tensor
from trees import break_line, checkout, golden_failures, snakemake

from lt import artefact, engine
from lt.stages.common import Recipe
from lt.stages.train import Job


def smoothed(job: Job, z: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """MiSLAS: e_y of the head 0.3, of the tail 0, concave; (1 - e) nll_y + e mean_j nll_j."""
    e = 0.3 * torch.sin((counts - counts.min()) / (counts.max() - counts.min()) * torch.pi / 2)[y]
    nll = -z.log_softmax(1)
    return ((1 - e) * nll[range(len(y)), y] + e * nll.mean(1)).mean()


def ride(job: Job, z: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """RIDE before re-weighting: sum_e [ LDAM(z_e) - 0.2 KL(softmax(mean) || softmax(z_e)) ]."""
    margins = counts**-0.25
    margins, q, total = 0.5 * margins / margins.max(), z.mean(1).softmax(1), 0.0
    for logits in z.unbind(1):
        moved = logits - 30 * margins * reference.one_hot(y, len(counts))
        divergence = (q * (q.log() - logits.log_softmax(1))).sum(1).mean()
        total = total + reference.ce(moved, y) - 0.2 * divergence
    return total


def bns(job: Job, z: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """BNS, projection by projection; the negatives over 2B."""
    z, y, total = z / z.norm(dim=1, keepdim=True), torch.cat([y, y]), 0.0
    for a in range(len(z)):
        similar = torch.exp(z @ z[a] / 0.5)
        mine = (y == y[a]) & (torch.arange(len(z)) != a)
        pos, neg = similar[mine].mean(), similar[y != y[a]].sum() / len(z)
        total = total - torch.log(torch.sigmoid(pos)) - torch.log(torch.sigmoid(-neg))
    return total / len(z)


def bal_bce(job: Job, z: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """LiVT: the sum over classes of BCE on x + log pi - log(1 - pi)."""
    pi = counts / counts.sum()
    p, t = torch.sigmoid(z + torch.log(pi / (1 - pi))), reference.one_hot(y, len(counts))
    return -(t * p.log() + (1 - t) * (1 - p).log()).sum(1).mean()


RUNS = {  # stage: what it starts from, formula, golden test, file of the loss, line, wrong line
    "mislas/resnet8/seed0/stage2": ("mislas/resnet8/seed0/stage1", smoothed,
        "test_btm_losses.py::test_label_aware_smoothing[las_cifar10_if100]", "smoothing.py",
        "return keep * own + e * nll.mean(1)", "return keep * own + e * nll.sum(1)"),
    "ride3/resnet8/seed0/stage1": (None, ride,
        "test_ride_losses.py::test_ride[c100_default-1]", "experts.py",
        "factor: Tensor | float = self.diversity_factor * ", "factor: Tensor | float = -self.diversity_factor * "),
    "bns_lp/resnet8/seed0/pretrain": (None, bns,
        "test_ipdpp_bns.py::test_as_released[basic]", "contrastive.py",
        "other = (~same).to(z.dtype) / len(z)", "other = (~same).to(z.dtype) / len(first)"),
    "livt/vit_digits/seed0/finetune": ("mae/vit_digits/seed0/pretrain", bal_bce,
        "test_livt_losses.py::test_value_and_gradient[A/BalBCE/soft00]", "bce.py",
        "return torch.log(pi) - torch.log(1 - pi)", "return torch.log(pi)"),
}  # fmt: skip


def first_losses(tree: Path) -> dict[str, tuple[float, float]]:
    """What the run wrote after one step, and what the formula says of that step."""
    params = yaml.safe_load((tree / "params.yaml").read_text())
    params["overlays"]["short"] = {"train": {"epochs": 1, "steps": 1, "mix": None, "schedule": "constant"}}
    (tree / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    done = snakemake(tree, "--cores", "1", *(f"results/digits_short/{run}/manifest.json" for run in RUNS))
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for run, (start, formula, *_) in RUNS.items():
        folder = tree / "results/digits_short" / run
        inputs = {"split": artefact.read(tree / "results/digits_short/split0")}
        if start:
            inputs["init"] = artefact.read(tree / "results/digits_short" / start)
        recipe = Recipe.read(folder.parent / "recipe" / f"{folder.name}.json")
        job = Job(recipe, inputs, index=None, device=torch.device("cpu"))
        job.model.train()
        batch = engine.to_device(next(iter(job.loader.epoch(0))), job.settings)
        counts = torch.from_numpy(np.asarray(job.split.class_counts)).double()
        with torch.no_grad():
            found[run] = reference.history(folder)[0], float(formula(job, seen(job, batch), batch["target"], counts))
    return found


def seen(job: Job, batch: dict) -> Tensor:
    """The logits that the loss gets: of several experts [B,E,C], of two views one below the other."""
    if isinstance(batch["image"], tuple | list):
        return torch.cat([job.model(view) for view in batch["image"]]).double()
    if hasattr(job.model, "streams"):
        return job.model(batch["image"], streams=True)[0].double()
    return job.model(batch["image"]).double()


@pytest.mark.slow
def test_the_first_loss_is_that_of_the_formula(tmp_path: Path) -> None:
    for run, (ours, expected) in first_losses(checkout(tmp_path)).items():
        assert ours == pytest.approx(expected, rel=2e-5), run


@pytest.mark.slow
def test_one_wrong_line_shows_in_the_run_and_in_the_golden_numbers(tmp_path: Path) -> None:
    tree = checkout(tmp_path)
    for *_, file, line, wrong in RUNS.values():
        break_line(tree, file, line, wrong)
    for run, (ours, expected) in first_losses(tree).items():
        assert abs(ours / expected - 1) > 1e-3, run
    golden = {test for _, _, test, *_ in RUNS.values()}
    assert golden_failures(tree, *golden) == golden
