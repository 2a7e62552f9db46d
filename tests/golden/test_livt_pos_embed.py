"""Sin-cos tables and the position resize."""

import numpy as np
import pytest
import torch
from livt_nets import DATA

from lt.models.pos_embed import resize, sincos

GOLDEN = np.load(DATA / "pos_embed.npz")


@pytest.mark.parametrize(("dim", "grid"), [(16, 4), (192, 8), (48, 3)])
def test_sincos(dim: int, grid: int) -> None:
    np.testing.assert_allclose(sincos(dim, grid), GOLDEN[f"sincos_d{dim}_g{grid}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [768, 512])
def test_sincos_of_published_sizes(dim: int) -> None:
    table = sincos(dim, 14)
    for row in GOLDEN[f"sincos_d{dim}_g14_rows"]:
        assert np.abs(table - row).max(axis=1).min() <= 1e-12
    if dim == 768:
        sums = [table.sum(), np.abs(table).sum(), np.square(table).sum()]
        np.testing.assert_allclose(sums, GOLDEN["sincos_d768_g14_sum"], rtol=1e-12)


@pytest.mark.parametrize("sides", ["8to14", "14to24", "14to4", "14to14"])
def test_resize(sides: str) -> None:
    given = torch.from_numpy(GOLDEN[f"interp_{sides}/in"])
    side = int(sides.split("to")[1])
    np.testing.assert_allclose(resize(given, side).numpy(), GOLDEN[f"interp_{sides}/out"], rtol=0, atol=1e-5)
    wide = resize(given.double(), side)
    np.testing.assert_allclose(wide.numpy(), GOLDEN[f"interp_{sides}/out64"], rtol=0, atol=1e-12)
