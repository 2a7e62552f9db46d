"""The classifier against the official code: both heads, drop path, gradients, sizes."""

import json

import numpy as np
import pytest
import torch
from livt_nets import DATA, close, fill, gradients, small_vit

from lt import losses, models

GOLDEN = np.load(DATA / "vit.npz")
PARAMS = json.loads((DATA / "params_vit.json").read_text())
SIZES = json.loads((DATA / "model_sizes.json").read_text())
POOLS = {"gp1": "avg", "gp0": "token"}


@pytest.mark.parametrize("pool", POOLS)
def test_small(pool: str) -> None:
    model = small_vit(global_pool=POOLS[pool])
    assert [n for n, _ in model.named_parameters()] == [p["name"] for p in PARAMS[f"s1/{pool}"]["params"]]
    images = torch.from_numpy(GOLDEN["s1/imgs"]).double()
    features = model.features(images)
    close(features, GOLDEN[f"s1/{pool}/feat"], 1e-9)
    logits = model(images)
    close(logits, GOLDEN[f"s1/{pool}/logits"], 1e-9)
    assert torch.equal(model.classify(features), logits)
    loss = losses.build("bal_bce", class_counts=GOLDEN["s1/cls_num"])(logits, torch.from_numpy(GOLDEN["s1/y"]))
    close(loss, GOLDEN[f"s1/{pool}/loss"], 2e-7)
    loss.backward()
    norms, sums = gradients(model, GOLDEN[f"s1/{pool}/grad_names"])
    close(norms, GOLDEN[f"s1/{pool}/grad_norms"], 2e-7)
    close(sums, GOLDEN[f"s1/{pool}/grad_sums"], 2e-7)
    parameters = dict(model.named_parameters())
    stored = [key for key in GOLDEN.files if key.startswith(f"s1/{pool}/grad/")]
    assert len(stored) >= 8
    for key in stored:
        close(parameters[key.rsplit("/", 1)[1]].grad, GOLDEN[key], 2e-7)


@pytest.mark.parametrize("pool", POOLS)
def test_tiny(pool: str) -> None:
    model = fill(models.build("vit_tiny", 10, img_size=64, global_pool=POOLS[pool])).eval()
    assert set(model.state_dict()) == {p["name"] for p in PARAMS[f"vit_tiny/{pool}"]["params"]}
    images = torch.from_numpy(GOLDEN["tiny/imgs"])
    with torch.no_grad():
        close(model(images), GOLDEN[f"tiny/{pool}/logits32"], 0, 2e-6)
        close(model.features(images), GOLDEN[f"tiny/{pool}/feat32"], 0, 2e-6)
        model.double()
        close(model(images.double()), GOLDEN[f"tiny/{pool}/logits64"], 1e-9)
        close(model.features(images.double()), GOLDEN[f"tiny/{pool}/feat64"], 1e-9)


class Given:
    """A source whose draws are known."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = iter(rows)

    def random(self, size: int) -> np.ndarray:
        row = next(self.rows).reshape(-1)
        assert len(row) == size
        return row


def test_drop_path() -> None:
    model = small_vit(drop_path=0.3).train()
    model.draw_with(Given(GOLDEN["droppath/u"]))
    rates = [getattr(block.drop_path1, "rate", 0.0) for block in model.blocks]
    np.testing.assert_allclose(rates, GOLDEN["droppath/rates"], rtol=1e-7)
    logits = model(torch.from_numpy(GOLDEN["droppath/imgs"]).double())
    close(logits, GOLDEN["droppath/logits"], 1e-9)


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_drop_path_rates(rate: float) -> None:
    with torch.device("meta"):
        model = models.build("vit_tiny", 2)
    from lt.models.tokens import set_drop_path

    set_drop_path(model.blocks, rate)
    rates = [getattr(block.drop_path2, "rate", 0.0) for block in model.blocks]
    assert rates == GOLDEN[f"dpr12_{rate}"].tolist()


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_parameter_counts(size: str) -> None:
    prefix = f"vit_{size}_"
    listed = {key: count for key, count in SIZES.items() if key.startswith(prefix)}
    assert len(listed) >= 10
    for key, count in listed.items():
        side, classes = (int(part) for part in key.removeprefix(prefix).split("_"))
        with torch.device("meta"):
            model = models.build(f"vit_{size}", classes, img_size=side)
        assert sum(p.numel() for p in model.parameters()) == count, key
        if key == "vit_base_224_1000":
            named = {n: list(p.shape) for n, p in model.named_parameters()}
            golden = SIZES["names_vit_base_224_gp"]
            rows = golden.items() if isinstance(golden, dict) else golden
            assert named == {row[0]: list(row[1]) for row in rows}
