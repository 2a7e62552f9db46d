import numpy as np
import pytest
import torch

from lt import models
from lt.errors import UserError
from lt.models import convert_livt, pos_embed
from lt.models.tokens import explicit_attention
from lt.models.vit import load_mgp
from lt.stages.networks import network_options


def small(classes: int = 3, **options: object) -> torch.nn.Module:
    return models.build("vit_digits", classes, seed=2, in_channels=1, **options)


def pretrained(**options: object) -> torch.nn.Module:
    return models.build("mae_digits", 1, seed=3, in_channels=1, **options)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_contract(pool: str) -> None:
    model = small(global_pool=pool).eval()
    x = torch.randn(2, 1, 8, 8)
    features = model.features(x)
    assert features.shape == (2, model.feature_dim) and model.feature_dim == 64
    assert torch.equal(model.classify(features), model(x))
    assert model.head.out_features == 3
    tokens = model.forward_features(x)
    pooled = model.fc_norm(tokens[:, 1:].mean(1)) if pool == "avg" else tokens[:, 0]
    torch.testing.assert_close(pooled, features)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_explicit_and_fused_attention_are_equal(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    results = []
    for explicit in (False, True):
        monkeypatch.setattr("lt.models.tokens.explicit_attention", lambda x, explicit=explicit: explicit)
        model = small(global_pool=pool)
        logits = model(x)
        torch.nn.functional.cross_entropy(logits, y).backward()
        assert all(block.attn.fused_attn is not explicit for block in model.blocks)
        results.append((logits, model.blocks[0].attn.qkv.weight.grad))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_in_bf16_both_attentions_are_as_near_to_fp32(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, found = small(global_pool=pool).eval(), torch.randn(16, 1, 8, 8), {}
    with torch.no_grad():
        model.head.weight.mul_(1e4)  # as drawn its logits are nearly 0
        exact = model(x)
        for explicit in (False, True):
            monkeypatch.setattr("lt.models.tokens.explicit_attention", lambda x, explicit=explicit: explicit)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found[explicit] = model(x).float()
    scale = exact.std()
    assert scale > 0.1
    for logits in found.values():
        assert ((logits - exact) / scale).abs().max() < 0.06  # bf16 carries 8 bits
    assert ((found[True] - found[False]) / scale).abs().max() < 0.06


def test_rule_of_attention() -> None:
    x = torch.zeros(1)
    assert not explicit_attention(x) and explicit_attention(x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert explicit_attention(x)
        assert not explicit_attention(x.to("meta"))
    with torch.autocast("cpu", dtype=torch.float16):
        assert not explicit_attention(x)


def test_bf16_is_near_fp32() -> None:
    model, x = small().eval(), torch.randn(8, 1, 8, 8)
    full = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x)
    assert not model.blocks[0].attn.fused_attn
    torch.testing.assert_close(half.float(), full, rtol=0, atol=0.05 * float(full.detach().abs().max()))


def test_drop_path_is_a_function_of_its_source() -> None:
    x = torch.randn(6, 1, 8, 8)
    outputs = []
    for seed in (4, 4, 5):
        model = small(drop_path=0.5).train()
        model.draw_with(np.random.default_rng(seed))
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    model.eval()
    assert torch.equal(model(x), small().eval()(x))


def test_drop_path_keeps_the_mean() -> None:
    path = small(drop_path=0.4).blocks[-1].drop_path1.train()
    path.source = np.random.default_rng(0)
    kept = path(torch.ones(20_000, 1))
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0.0, 1 / 0.6], rel=1e-6)
    assert kept.mean().item() == pytest.approx(1.0, abs=0.02)


def test_start_from_pre_training() -> None:
    mae, vit = pretrained(), small()
    torch.nn.init.normal_(vit.fc_norm.weight)
    report = load_mgp(vit, mae.state_dict() | {"head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)})
    own = vit.state_dict()
    assert all(torch.equal(own[name], mae.state_dict()[name]) for name in report.mapped)
    assert set(report.fresh) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    assert set(report.mapped) | set(report.fresh) == set(own)
    assert {"norm.weight", "mask_token", "head.weight", "decoder_pos_embed"} <= set(report.dropped)
    assert 0 < vit.head.weight.std() < 4e-5 and not vit.head.bias.any()
    assert torch.equal(vit.fc_norm.weight, torch.ones(64))
    assert vit(torch.randn(2, 1, 8, 8)).abs().max() < 1e-2
    assert vit.pos_embed.requires_grad
    assert "dropped: decoder_blocks" in str(report)


def test_start_of_the_cls_head_takes_norm() -> None:
    mae, vit = pretrained(), small(global_pool="token")
    torch.nn.init.normal_(mae.norm.weight)
    report = load_mgp(vit, mae.state_dict())
    assert torch.equal(vit.norm.weight, mae.norm.weight) and "norm.weight" in report.mapped
    assert set(report.fresh) == {"head.weight", "head.bias"}


def test_start_resizes_positions() -> None:
    mae, vit = pretrained(img_size=16), small()
    report = load_mgp(vit, mae.state_dict())
    assert report.resized == (8, 4)
    assert torch.equal(vit.pos_embed, pos_embed.resize(mae.pos_embed, 4))
    assert mae.pos_embed.shape[1] == 65
    assert "position grid 8 -> 4" in str(report)


def test_wrong_start_is_one_line() -> None:
    state = pretrained().state_dict()
    with pytest.raises(UserError, match=r"lacks 'blocks.3.norm1.weight'"):
        load_mgp(small(), {k: v for k, v in state.items() if not k.startswith("blocks.3.")})
    with pytest.raises(UserError, match=r"'blocks.4.norm1.weight' is not in this network"):
        load_mgp(small(), state | {"blocks.4.norm1.weight": torch.zeros(64)})
    with pytest.raises(UserError, match=r"'patch_embed.proj.weight' has shape \[64, 1, 2, 2\]"):
        load_mgp(models.build("vit_digits", 3), state)
    with pytest.raises(UserError, match=r"lacks 'cls_token'"):
        load_mgp(small(), {})
    with pytest.raises(UserError, match=r"1 \+ a square"):
        load_mgp(small(), state | {"pos_embed": torch.zeros(1, 12, 64)})
    with pytest.raises(UserError, match=r"drop_path is 1.0"):
        small(drop_path=1.0)
    with pytest.raises(UserError, match=r"image\.size: a network for 8x8 pixels is given 16x16"):
        small()(torch.randn(1, 1, 16, 16))
    with pytest.raises(UserError, match="unknown global_pool 'mean'"):
        small(global_pool="mean")


def test_import_of_every_kind() -> None:
    mae, vit = pretrained(), small()
    official = {"model": {f"module.{k}": v for k, v in mae.state_dict().items()}, "epoch": 3}
    official["model"]["head.weight"] = torch.zeros(5, 64)
    fresh = pretrained()
    torch.nn.init.zeros_(fresh.decoder_pred.weight)
    report = convert_livt.load(fresh, official)
    assert report.dropped == ("head.weight",)
    assert torch.equal(fresh.decoder_pred.weight, mae.decoder_pred.weight)
    assert convert_livt.kind(convert_livt.entries(official)) == "mgp"

    encoder = {k: v for k, v in mae.state_dict().items() if not k.startswith("decoder") and k != "mask_token"}
    assert convert_livt.kind(encoder) == "encoder"
    assert "fc_norm.weight" in convert_livt.load(vit, {"model": encoder}).fresh
    with pytest.raises(UserError, match="holds no decoder"):
        convert_livt.load(fresh, encoder)

    other = models.build("vit_digits", 3, seed=9, in_channels=1, img_size=16)
    report = convert_livt.load(other, {"model": vit.state_dict()})
    assert report.resized == (4, 8) and not report.fresh
    assert torch.equal(other.head.weight, vit.head.weight)
    with pytest.raises(UserError, match=r"'head.weight' has shape"):
        convert_livt.load(small(4), vit.state_dict())
    assert "head.weight" in convert_livt.load(small(4), vit.state_dict(), head="fresh").dropped
    with pytest.raises(UserError, match="not a vision transformer"):
        convert_livt.load(vit, {"conv1.weight": torch.zeros(1)})


def test_layouts_know_their_files() -> None:
    mae, vit = pretrained().state_dict(), small().state_dict()
    files = {"livt_mgp": {"model": mae | {"head.bias": torch.zeros(5)}}, "livt_bft": {"model": vit}}
    for name, container in files.items():
        assert [n for n, knows in convert_livt.SIGNATURES.items() if knows(container)] == [name]
    assert set(convert_livt.LAYOUTS["livt_mgp"](files["livt_mgp"])) == set(mae)
    assert set(convert_livt.LAYOUTS["livt_bft"](files["livt_bft"])) == set(vit)
    assert not any(knows({"state_dict_model": {}}) for knows in convert_livt.SIGNATURES.values())


def test_timm_loads_ours_without_renaming() -> None:
    from timm.models.vision_transformer import VisionTransformer

    shape = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 64, "depth": 4, "num_heads": 4}
    theirs = VisionTransformer(**shape, global_pool="avg", num_classes=3).eval()
    ours = small().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_network_of_patches_takes_the_size_of_the_images() -> None:
    data = {"image": {"size": 64, "channels": 3}}
    assert network_options("vit_base", data, {}) == network_options("mae_base", data, {}) == {"img_size": 64}
    assert network_options("vit_base", data, {"image": {"size": 384}}) == {"img_size": 384}
    for arch in ("resnet50", "resnet8", "ride_resnet8", "resnet152_places"):
        assert network_options(arch, data, {"image": {"size": 96}}) == {}
