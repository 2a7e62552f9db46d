import numpy as np
import pytest
import torch

from lt import rng
from lt.data import mix
from lt.errors import UserError


def test_same_step_same_draw() -> None:
    first = mix.draw_mixup(rng.stream(1, "mixup", 2, 3), 8, 0.2)
    again = mix.draw_mixup(rng.stream(1, "mixup", 2, 3), 8, 0.2)
    other = mix.draw_mixup(rng.stream(1, "mixup", 2, 4), 8, 0.2)
    assert first.lam == again.lam and first.perm.tolist() == again.perm.tolist()
    assert first.lam != other.lam


def test_alpha_zero_keeps_images_and_still_draws_the_permutation() -> None:
    source = np.random.RandomState(0)
    drawn = mix.draw_mixup(source, 6, 0.0)
    assert drawn.lam == 1.0 and sorted(drawn.perm) == list(range(6))
    assert drawn.perm.tolist() == np.random.RandomState(0).permutation(6).tolist()
    images = torch.randn(6, 3, 4, 4)
    assert torch.equal(mix.apply(images, drawn), images)


def test_apply_leaves_its_input_alone() -> None:
    images = torch.randn(5, 3, 9, 7)
    before = images.clone()
    for seed in range(12):
        for mode in ("batch", "pair", "elem"):
            drawn = mix.draw_mix_timm(np.random.default_rng(seed), images.shape, mode=mode)
            mixed = mix.apply(images, drawn)
            assert mixed.data_ptr() != images.data_ptr()
            assert torch.equal(images, before)


def test_targets_follow_the_pixels() -> None:
    """Images that are constant at their label: the mean pixel is the mean label under the targets."""
    labels = torch.arange(8)
    images = labels.float().view(8, 1, 1, 1).expand(8, 1, 10, 14)
    for mode in ("batch", "pair", "elem"):
        kinds = set()
        for seed in range(30):
            drawn = mix.draw_mix_timm(np.random.default_rng(seed), images.shape, mode=mode)
            soft = mix.soft_targets(labels, 8, drawn)
            boxes = drawn.boxes if mode != "batch" else [drawn.boxes]
            kinds |= {box is not None for box in boxes}
            pixel = mix.apply(images, drawn).mean(dim=(1, 2, 3))
            torch.testing.assert_close(soft @ labels.float(), pixel, rtol=0, atol=1e-5)
        assert kinds == {True, False}


def test_smoothing_sums_to_one() -> None:
    soft = mix.soft_targets(torch.tensor([0, 2]), 4, smoothing=0.1)
    torch.testing.assert_close(soft.sum(1), torch.ones(2))
    torch.testing.assert_close(soft[0], torch.tensor([0.925, 0.025, 0.025, 0.025]))


def test_probability_and_switches() -> None:
    shape = (4, 3, 8, 8)
    for mode in ("batch", "pair", "elem"):
        never = mix.draw_mix_timm(np.random.default_rng(0), shape, prob=0.0, mode=mode)
        assert np.all(np.asarray(never.lam) == 1.0)
        blend = mix.draw_mix_timm(np.random.default_rng(0), shape, cutmix_alpha=0.0, mode=mode)
        assert not np.any([box is not None for box in np.atleast_1d(blend.boxes)])
    assert mix.draw_mix_timm(np.random.default_rng(0), shape, mixup_alpha=0.0).boxes is not None
    assert mix.draw_mix_timm(np.random.default_rng(0), shape, mixup_alpha=0.0, cutmix_alpha=0.0).lam == 1.0


def test_batch_of_one() -> None:
    images = torch.randn(1, 3, 8, 8)
    for mode in ("batch", "pair", "elem"):
        drawn = mix.draw_mix_timm(np.random.default_rng(5), images.shape, mode=mode)
        torch.testing.assert_close(mix.apply(images, drawn), images)
        torch.testing.assert_close(mix.soft_targets(torch.tensor([1]), 3, drawn), torch.tensor([[0.0, 1, 0]]))


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="did you mean 'batch'"):
        mix.draw_mix_timm(np.random.default_rng(0), (4, 3, 8, 8), mode="bach")
    for alpha in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="alpha is"):
            mix.draw_mixup(np.random.default_rng(0), 4, alpha)
