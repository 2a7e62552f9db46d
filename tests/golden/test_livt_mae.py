"""The masked autoencoder against the official code: masking, latent, prediction, loss, gradients, sizes."""

import json

import numpy as np
import pytest
import torch
from livt_nets import DATA, close, fill, from_config, gradients

from lt import models

GOLDEN = np.load(DATA / "mae.npz")
PARAMS = json.loads((DATA / "params_mae.json").read_text())
SIZES = json.loads((DATA / "model_sizes.json").read_text())


@pytest.mark.parametrize("case", ["s1", "s2"])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_small(case: str, norm_pix: bool) -> None:
    model = from_config(PARAMS[case]["cfg"], PARAMS[case]["ratio"], norm_pix_loss=norm_pix).double()
    assert [n for n, _ in model.named_parameters()] == [p["name"] for p in PARAMS[case]["params"]]
    images, noise = (torch.from_numpy(GOLDEN[f"{case}/{k}"]) for k in ("imgs", "noise"))
    images = images.double()
    wanted = {k: GOLDEN[f"{case}/npl{int(norm_pix)}/{k}"] for k in ("loss", "mask", "ids_restore", "latent", "pred")}
    close(model.patchify(images), GOLDEN[f"{case}/patchify"], 1e-12)
    torch.testing.assert_close(model.unpatchify(model.patchify(images)), images, rtol=0, atol=0)
    latent, mask, restore = model.encode(images, noise)
    assert mask.tolist() == wanted["mask"].tolist() and restore.tolist() == wanted["ids_restore"].tolist()
    close(latent, wanted["latent"], 1e-9)
    loss, pred, _ = model(images, noise)
    close(pred, wanted["pred"], 1e-9)
    close(loss, wanted["loss"], 1e-9)
    loss.backward()
    key = f"{case}/npl{int(norm_pix)}"
    norms, sums = gradients(model, GOLDEN[f"{key}/grad_names"])
    close(norms, GOLDEN[f"{key}/grad_norms"], 1e-9)
    close(sums, GOLDEN[f"{key}/grad_sums"], 1e-9)


def test_tiny() -> None:
    model = fill(models.build("mae_tiny", 1, img_size=128))
    assert [n for n, _ in model.named_parameters()] == [p["name"] for p in PARAMS["mae_vit_tiny_128"]["params"]]
    images, noise = (torch.from_numpy(GOLDEN[f"tiny/{k}"]) for k in ("imgs", "noise"))
    latent, mask, restore = model.encode(images, noise)
    assert mask.tolist() == GOLDEN["tiny/mask"].tolist()
    assert restore.tolist() == GOLDEN["tiny/ids_restore"].tolist()
    close(latent[:, ::7, ::13], GOLDEN["tiny/latent_sub"], 0, 5e-6)
    loss, pred, _ = model(images, noise)
    close(pred[:, ::11, ::29], GOLDEN["tiny/pred_sub"], 0, 5e-6)
    close([pred.mean().item(), pred.std().item(), pred.abs().max().item()], GOLDEN["tiny/pred_stats"], 0, 5e-6)
    close(loss, GOLDEN["tiny/loss"], 2e-6)
    loss.backward()
    norms, _ = gradients(model, GOLDEN["tiny/grad_names"])
    np.testing.assert_allclose(norms, GOLDEN["tiny/grad_norms"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize("side", [128, 224])
def test_parameter_counts(size: str, side: int) -> None:
    with torch.device("meta"):
        skeleton = _skeleton(f"mae_{size}", side)
    count = {
        "total": sum(p.numel() for p in skeleton.parameters()),
        "trainable": sum(p.numel() for p in skeleton.parameters() if p.requires_grad),
    }
    assert count == SIZES[f"mae_{size}_{side}"]
    if (size, side) == ("base", 224):
        names = {n: list(p.shape) for n, p in skeleton.named_parameters()}
        assert names == _shapes(SIZES["names_mae_base_224"])


def _skeleton(arch: str, side: int) -> torch.nn.Module:
    return models.build(arch, 1, img_size=side)


def _shapes(listed: object) -> dict[str, list[int]]:
    rows = listed.items() if isinstance(listed, dict) else [(r[0], r[1]) for r in listed]
    return {name: list(shape) for name, shape in rows}
