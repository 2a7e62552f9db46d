import numpy as np
import pytest
import torch

from lt import models, rng, tasks
from lt.engine import Step
from lt.errors import UserError
from lt.figures.reconstruction import reconstructions
from lt.models.mae import draw_noise


def network() -> torch.nn.Module:
    return models.build("mae_digits", 10, seed=3, in_channels=1)


def batch(rows: int = 6) -> dict[str, torch.Tensor]:
    image = torch.from_numpy(np.random.RandomState(0).randn(rows, 1, 8, 8)).float()
    return {"image": image, "target": torch.arange(rows) % 10}


def test_loss_is_the_networks_under_the_stream_of_the_step() -> None:
    net, step = network(), Step(seed=5, epoch=2, step=7, rank=1)
    task = tasks.build("reconstruct", model=net)
    given = batch()
    noise = draw_noise(rng.stream(5, "dropout", 2, 7, 1), 6, 16)
    result = task(net, given, step)
    assert set(result) == {"loss"}
    assert torch.equal(result["loss"], net(given["image"], noise).loss)


def test_masks_change_with_every_part_of_the_place() -> None:
    net = network()
    task, given = tasks.build("reconstruct", model=net), batch()
    places = [Step(0, 0, 0, 0), Step(1, 0, 0, 0), Step(0, 1, 0, 0), Step(0, 0, 1, 0), Step(0, 0, 0, 1)]
    losses = [task(net, given, place)["loss"].item() for place in places]
    assert len(set(losses)) == len(places)
    assert task(net, given, places[0])["loss"].item() == losses[0]


def test_global_generators_do_not_matter_and_do_not_move() -> None:
    net = network()
    task, given, place = tasks.build("reconstruct", model=net), batch(), Step(0, 3, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = task(net, given, place)["loss"]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, task(net, given, place)["loss"])


def test_labels_are_not_looked_at() -> None:
    net = network()
    task, given, place = tasks.build("reconstruct", model=net), batch(), Step(0, 0, 0)
    other = {**given, "target": given["target"].flip(0)}
    assert torch.equal(task(net, given, place)["loss"], task(net, other, place)["loss"])


def test_one_image_is_enough() -> None:
    net = network()
    loss = tasks.build("reconstruct", model=net)(net, batch(1), Step(0, 0, 0))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert net.pos_embed.grad is None and net.decoder_pos_embed.grad is None


def test_training_lowers_the_loss() -> None:
    net, given = network(), batch(16)
    task = tasks.build("reconstruct", model=net)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for step in range(120):
        optimizer.zero_grad()
        loss = task(net, given, Step(0, 0, step))["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:5])


def test_nothing_but_an_autoencoder_is_taken() -> None:
    with pytest.raises(UserError, match="no masked autoencoder; set net: mae_<size>"):
        tasks.build("reconstruct", model=models.build("vit_digits", 10, seed=0, in_channels=1))
    with pytest.raises(UserError, match="mix: images are not mixed"):
        tasks.build("reconstruct", model=network(), mix=object())


def test_state_is_empty() -> None:
    task = tasks.build("reconstruct", model=network())
    assert task.state_dict() == {}
    task.load_state_dict({})
    assert not task.stochastic


def test_a_classifier_starts_from_the_encoder() -> None:
    mae = network()
    vit = models.build("vit_digits", 10, seed=9, in_channels=1)
    report = vit.start_from(mae.state_dict())
    assert torch.equal(vit.state_dict()["blocks.2.mlp.fc1.weight"], mae.state_dict()["blocks.2.mlp.fc1.weight"])
    assert vit.head.weight.abs().max() < 1e-3 and vit.head.bias.abs().max() == 0
    assert set(report.fresh) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    assert "decoder_blocks" in str(report) and "mask_token" in str(report)


def test_another_size_or_another_file_is_refused_in_one_line() -> None:
    vit = models.build("vit_digits", 10, seed=9, in_channels=1)
    wide = models.build("mae_fashion", 10, seed=0, in_channels=1)
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight") as caught:
        vit.start_from(wide.state_dict())
    assert "\n" not in str(caught.value)


def test_pixels_of_a_perfect_prediction_are_the_image() -> None:
    images = batch()["image"]
    for normed in (True, False):
        net = models.build("mae_digits", 10, seed=3, in_channels=1, norm_pix_loss=normed)
        torch.testing.assert_close(net.pixels(images, net.target(images)), images, rtol=0, atol=1e-5)


def test_figure_pastes_the_prediction_where_nothing_was_seen(tmp_path) -> None:
    net, images = network(), batch(3)["image"]
    out = net(images, draw_noise(rng.stream(0, "dropout"), 3, 16))
    visible = net.unpatchify((1 - out.mask).unsqueeze(-1).expand(-1, -1, 4)).squeeze(1).bool().numpy()
    assert visible.mean() == 0.25
    original, predicted = (v.detach().squeeze(1).numpy() for v in (images, net.pixels(images, out.pred)))
    path = tmp_path / "r.svg"
    reconstructions(path, original, np.where(visible, original, 0.5), predicted, visible=visible)
    first = path.read_bytes()
    reconstructions(path, original, np.where(visible, original, 0.5), predicted, visible=visible)
    assert path.read_bytes() == first and first.count(b"<image") == 9
    with pytest.raises(UserError, match="visible is"):
        reconstructions(path, original, original, predicted, visible=visible[:1])
