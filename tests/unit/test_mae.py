import numpy as np
import pytest
import torch

from lt import models, rng
from lt.errors import UserError
from lt.models.mae import draw_mask, draw_noise, visible


def small(**options: object) -> torch.nn.Module:
    return models.build("mae_digits", 10, seed=1, in_channels=1, **options)


def test_counts_of_the_card() -> None:
    assert visible(196, 0.75) == 49 and visible(64, 0.75) == 16 and visible(36, 0.6) == 14


def test_mask_keeps_the_smallest_noise() -> None:
    noise = draw_noise(rng.stream(0, "dropout", 1, 2), 5, 16)
    assert noise.dtype == torch.float32 and noise.shape == (5, 16)
    keep, mask, restore = draw_mask(noise, 4)
    for row in range(5):
        assert keep[row].tolist() == np.argsort(noise[row].numpy())[:4].tolist()
        assert set(keep[row].tolist()) == set(torch.nonzero(mask[row] == 0).flatten().tolist())
    shuffle = torch.argsort(noise, dim=1)
    torch.testing.assert_close(shuffle.gather(1, restore), torch.arange(16).expand(5, 16))


def test_encoder_sees_only_visible_patches() -> None:
    model = small()
    seen = []
    model.blocks.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    images, noise = torch.randn(3, 1, 8, 8), torch.rand(3, 16)
    out = model(images, noise)
    assert seen == [(3, 1 + 4, 64)]
    assert out.pred.shape == (3, 16, 4) and out.mask.sum(1).tolist() == [12.0] * 3
    changed = model.patchify(images) + 7.0 * out.mask.unsqueeze(-1)  # only hidden pixels differ
    latent, _, _ = model.encode(model.unpatchify(changed), noise)
    torch.testing.assert_close(latent, model.encode(images, noise)[0])


def test_target_is_standardised_with_the_unbiased_variance() -> None:
    model = small()
    target = model.target(torch.randn(2, 1, 8, 8))
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, 16), rtol=0, atol=1e-6)
    torch.testing.assert_close(target.var(-1, correction=1), torch.ones(2, 16), rtol=0, atol=1e-3)
    flat = model.target(torch.full((1, 1, 8, 8), 3.0))
    assert torch.equal(flat, torch.zeros_like(flat))


def test_position_tables_are_fixed() -> None:
    model = small()
    model(torch.randn(2, 1, 8, 8), torch.rand(2, 16)).loss.backward()
    assert model.pos_embed.grad is None and model.decoder_pos_embed.grad is None
    rest = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert rest == []


def test_start() -> None:
    model = small()
    bound = (6 / (3 * 64 + 64)) ** 0.5  # xavier on the joint qkv matrix
    weight = model.blocks[0].attn.qkv.weight
    assert 0.95 * bound < weight.abs().max() <= bound
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, torch.nn.Linear))
    conv = model.patch_embed.proj.weight
    assert 0.9 * (6 / (64 + 4)) ** 0.5 < conv.abs().max() <= (6 / (64 + 4)) ** 0.5
    again = small()
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_loss_is_float32_under_autocast() -> None:
    model = small()
    images, noise = torch.randn(4, 1, 8, 8), torch.rand(4, 16)
    full = model(images, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(images, noise)
    assert half.loss.dtype == torch.float32
    assert not model.blocks[0].attn.fused_attn and not model.decoder_blocks[0].attn.fused_attn
    torch.testing.assert_close(half.loss, full.loss, rtol=2e-2, atol=0)


def test_batch_of_one_and_learning() -> None:
    torch.manual_seed(0)
    model = small()
    images, noise = torch.randn(1, 1, 8, 8), torch.rand(1, 16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    first = model(images, noise).loss.item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(images, noise).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="not a multiple of patch_size 3"):
        small(patch_size=3)
    with pytest.raises(UserError, match="keeps 16 of 16"):
        small(mask_ratio=0.0)
    with pytest.raises(UserError, match="keeps 0 of 16"):
        small(mask_ratio=0.99)
    with pytest.raises(UserError, match="unknown decoder '512x9'; did you mean '512x8'"):
        small(decoder="512x9")
    with pytest.raises(UserError, match=r"image\.size: a network for 8x8 pixels is given 12x12"):
        small()(torch.randn(1, 1, 12, 12), torch.rand(1, 16))
