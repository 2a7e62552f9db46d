"""What a piece of work takes: CPU seconds, which a neighbour does not lengthen, and the peak memory of the process of
its own that does it, imports and data included.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

# VmHWM, because ru_maxrss counts what this process holds, too, from which the other one is forked.
PROGRAM = """
import time
{before}
start = time.process_time()
{work}
seconds = time.process_time() - start
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) * 1024 / 1e9)
"""


def spent(before: str, work: str) -> tuple[float, float]:
    """CPU seconds of `work`, GB."""
    code = PROGRAM.format(before=before, work=work)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


LOGITS = """
import numpy as np
from lt import posthoc
logits = np.random.default_rng(0).standard_normal((50_000, 1000), dtype=np.float32)
labels = np.arange(50_000) % 1000
"""
SWEEP = """
found = posthoc.pn_sweep(logits, labels, posthoc.TAUS)
assert found["predictions"].shape == (21, 50_000)
"""


@pytest.mark.slow
def test_a_sweep_over_imagenet_sized_predictions_stays_below_2_gb_and_20_s() -> None:
    seconds, peak = spent(LOGITS, SWEEP)
    assert 0.2 < peak < 2, f"{peak:.2f} GB"  # the logits at the least
    assert seconds < 20


VIEWS = """
import torch
from lt.losses import contrastive
torch.set_num_threads(1)
views = [torch.randn(1024, 128, requires_grad=True) for _ in range(2)]
labels = torch.randint(10, (1024,))
"""
BNS = """
contrastive.bns(*views, labels).backward()
assert views[0].grad.any()
"""


def test_bns_of_1024_images_stays_below_600_mb_and_1_s() -> None:
    seconds, peak = spent(VIEWS, BNS)
    assert 4 * 2048**2 / 1e9 < peak < 0.6, f"{peak:.2f} GB"  # one matrix of all pairs at the least
    assert seconds < 1


NETWORK = """
import torch
from lt import losses, models, optim
torch.set_num_threads(1)
model = models.build("vit_base", 1000, img_size=224, seed=0)
model.train()
loss = losses.build("bal_bce", class_counts=[1280 - c for c in range(1000)], smoothing=0.1)
groups = optim.param_groups(model, weight_decay=0.05, rule="layer_decay", decay=0.75)
optimiser = optim.optimizer("adamw", groups, betas=(0.9, 0.999))
images, target = torch.randn(4, 3, 224, 224), torch.arange(4)
before = model.head.weight.detach().clone()
"""
TWO_UPDATES = """
for _ in range(2):
    for group in optimiser.param_groups:
        group["lr"] = 1e-3 * group["lr_scale"]
    value = loss(model(images), target)
    optimiser.zero_grad()
    value.backward()
    optimiser.step()
assert torch.isfinite(value) and not torch.equal(model.head.weight, before)
"""


@pytest.mark.slow
def test_two_updates_of_vit_base_stay_below_5_gb() -> None:
    _, peak = spent(NETWORK, TWO_UPDATES)
    assert 86.6e6 * 4 * 4 / 1e9 < peak < 5, f"{peak:.2f} GB"  # weights, gradients and two moments at the least


MODELS = """
from pathlib import Path
from lt import merge
import safetensors.torch, torch
torch.set_num_threads(1)
paths = [Path({folder!r}) / f"{{i}}.safetensors" for i in range(10)]
"""
MERGE = """
merge.merge_files(paths, "mean", paths[0].parent / "merged.safetensors")
"""


@pytest.mark.slow
def test_a_merge_of_ten_resnet50_stays_below_1200_mb(tmp_path: Path) -> None:
    """All ten at once, with their sums, are 1.4 GB."""
    from safetensors.torch import load_file, save_file

    from lt import models

    state = models.build("resnet50", 1000, seed=0).state_dict()
    save_file(state, tmp_path / "0.safetensors")
    for i in range(1, 10):  # links: a merge reads ten files, the disk holds one
        (tmp_path / f"{i}.safetensors").hardlink_to(tmp_path / "0.safetensors")
    _, peak = spent(MODELS.format(folder=str(tmp_path)), MERGE)
    assert 2 * (tmp_path / "0.safetensors").stat().st_size / 1e9 < peak < 1.2, f"{peak:.2f} GB"
    merged = load_file(tmp_path / "merged.safetensors")
    assert all(torch.equal(merged[name], value) for name, value in state.items())
