"""Mixup and CutMix against timm 0.3.2 (LiVT) and the published mixup of MiSLAS and BTM."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lt.data import mix

HERE = Path(__file__).parent
LIVT = np.load(HERE / "livt" / "mixup.npz")
BTM = np.load(HERE / "btm" / "losses.npz")


@pytest.mark.parametrize("seed", range(8))
def test_batch_mode(seed: int) -> None:
    case = {key.split("/")[1]: LIVT[key] for key in LIVT.files if key.startswith(f"s{seed}/")}
    drawn = mix.draw_mix_timm(np.random.RandomState(seed), case["x"].shape)
    assert (drawn.boxes is not None) == bool(case["use_cutmix"])
    if drawn.boxes is not None:
        assert list(drawn.boxes) == case["bbox"].tolist()
        assert drawn.lam == pytest.approx(float(case["lam_corrected"]), rel=1e-12)
    else:
        assert drawn.lam == float(case["lam_drawn"])
    mixed = mix.apply(torch.from_numpy(case["x"]), drawn)
    np.testing.assert_allclose(mixed.numpy(), case["x_out"], rtol=0, atol=1e-6)
    soft = mix.soft_targets(torch.from_numpy(case["y"]), 6, drawn, smoothing=0.1 if seed % 2 else 0.0)
    np.testing.assert_allclose(soft.numpy(), case["target"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["pair", "elem"])
def test_other_modes(mode: str) -> None:
    x, y = torch.from_numpy(LIVT[f"{mode}/x"]), torch.from_numpy(LIVT[f"{mode}/y"])
    drawn = mix.draw_mix_timm(np.random.RandomState(3), x.shape, mode=mode)
    np.testing.assert_allclose(mix.apply(x, drawn).numpy(), LIVT[f"{mode}/x_out"], rtol=0, atol=1e-6)
    soft = mix.soft_targets(y, 6, drawn, smoothing=0.1)
    np.testing.assert_allclose(soft.numpy(), LIVT[f"{mode}/target"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [32, 224])
def test_boxes(side: int) -> None:
    for seed, lam in enumerate(LIVT[f"bbox{side}/lam_in"]):
        box, left = mix.draw_box(np.random.RandomState(seed), height=side, width=side, lam=float(lam))
        assert list(box) == LIVT[f"bbox{side}/box"][seed].tolist()
        assert left == pytest.approx(LIVT[f"bbox{side}/lam_out"][seed], rel=1e-12)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_mixup_of_mislas(case: int) -> None:
    given = {key.split("__")[1]: BTM[key] for key in BTM.files if key.startswith(f"mixdata{case}__")}
    generator = torch.Generator().manual_seed(int(given["torch_seed"]))
    source = np.random.RandomState(int(given["np_seed"]))
    drawn = mix.draw_mixup(source, len(given["x"]), float(given["alpha"]), perm_source=generator)
    assert drawn.lam == float(given["lam"])
    assert np.arange(5)[drawn.perm].tolist() == given["yb"].tolist()
    mixed = mix.apply(torch.from_numpy(given["x"]), drawn)
    np.testing.assert_allclose(mixed.numpy(), given["mixed"], rtol=1e-12, atol=1e-14)
