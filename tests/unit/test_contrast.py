"""The contrastive task, and lists drawn anew inside a training stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from lt import losses, models, tasks
from lt.data import augment
from lt.data.loader import Loader
from lt.data.sources import Source
from lt.engine import Hooks, Settings, Step, Stop, TrainState, fit
from lt.errors import UserError
from lt.losses import contrastive
from lt.sampling import dpp
from lt.stages import determinantal, redraw

COUNTS = np.array([40, 25, 12, 6])
LABELS = np.repeat(np.arange(4), COUNTS)
RULE = {"sampler": "exact", "kernel": "paper", "k": 8, "every": 2, "p_transform": "test", "reseed": True}


def network(head: str = "projector") -> nn.Module:
    net = models.build("resnet8", 4, in_channels=1, seed=0)
    return models.set_head(net, head, hidden=16, width=8, seed=0) if head == "projector" else net


def task(net: nn.Module, name: str = "bns", **options):
    return tasks.build("contrast", model=net, loss=losses.build(name, class_counts=COUNTS, **options), mix=None)


def views(size: int = 12, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    pair = tuple(torch.rand(size, 1, 8, 8, generator=g) for _ in range(2))
    return {"image": pair, "target": torch.randint(0, 4, (size,), generator=g)}


@pytest.mark.parametrize("name", ["bns", "bns_eq12"])
def test_views_go_through_one_after_the_other(name: str) -> None:
    """Two batches to batch normalisation, and two updates of its statistics a step."""
    net, batch = network(), views()
    net.train()
    found = task(net, name, tau=0.4)(net, batch, Step(0, 0, 0))
    assert int(net.bn1.num_batches_tracked) == 2
    again = network().train()
    projected = [again(view) for view in batch["image"]]
    expected = getattr(contrastive, name)(*projected, batch["target"], tau=0.4)
    torch.testing.assert_close(found["loss"], expected, rtol=0, atol=0)
    together = network().train()(torch.cat(batch["image"]))
    assert not torch.allclose(together[:12], projected[0], atol=1e-4)
    assert found.get("logits") is None


def test_projector_width() -> None:
    net = models.set_head(models.build("resnet8", 7, seed=0), "projector", hidden=16, width=5)
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    assert models.heads.build("projector", 64, 128)(torch.zeros(1, 64)).shape == (1, 128)


def test_refusals() -> None:
    net = network()
    with pytest.raises(UserError, match="set loss: bns"):
        tasks.build("contrast", model=net, loss=losses.build("cross_entropy", class_counts=COUNTS))
    with pytest.raises(UserError, match="mix"):
        tasks.build("contrast", model=net, loss=losses.build("bns", class_counts=COUNTS), mix=object())
    with pytest.raises(UserError, match="augment: simclr"):
        task(net)(net, {**views(), "image": views()["image"][0]}, Step(0, 0, 0))
    with pytest.raises(UserError, match="task: contrast"):
        losses.build("bns", class_counts=COUNTS)(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match="did you mean 'tau'"):
        losses.build("bns", class_counts=COUNTS, tua=0.5)


def _rank(rank: int, folder: str) -> None:
    """One of two processes: gradients of its half of a batch, written by the first."""
    import torch.distributed as dist

    from lt import distributed

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    net = network().double().eval()  # running statistics: the split of a batch is no part of the question
    wrapped, batch = distributed.wrap(net, torch.device("cpu")), views()
    share = {"image": tuple(v[rank::2].double() for v in batch["image"]), "target": batch["target"][rank::2]}
    loss = task(net)(wrapped, share, Step(0, 0, 0, rank))["loss"]
    loss.backward()
    if rank == 0:
        torch.save([loss.detach(), *(p.grad for p in net.parameters())], f"{folder}/found.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_gradient_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "found.pt")
    net, batch = network().double().eval(), views()
    batch["image"] = tuple(v.double() for v in batch["image"])
    loss = task(net)(net, batch, Step(0, 0, 0))["loss"]
    loss.backward()
    torch.testing.assert_close(found[0], loss.detach(), rtol=1e-12, atol=0)
    for ours, whole in zip(found[1:], net.parameters(), strict=True):
        torch.testing.assert_close(ours, whole.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [
        (10, 100, [0, *range(9, 90, 10)]),  # CIFAR-10: ten draws
        (20, 100, [0, 19, 39, 59, 79]),  # CIFAR-100: five
        (0, 100, [0]),
        (1, 4, [0, 1, 2]),
        (5, 1, [0]),
        (200, 100, [0]),
    ],
)
def test_published_epochs(every: int, epochs: int, expected: list[int]) -> None:
    assert redraw.redraw_epochs(every, epochs) == expected


def source() -> Source:
    rng = np.random.RandomState(0)
    images = (LABELS[:, None, None, None] * 40 + rng.randint(0, 90, (len(LABELS), 1, 8, 8))).astype(np.uint8)
    return Source("made up", LABELS, 4, images=images)


def redrawn(net: nn.Module, *, epochs: int = 5, indices=None, **changes) -> redraw.Redrawn:
    """A redrawing loader over the tiny source; p from the network."""
    rule, data = {**RULE, **changes}, source()
    indices = np.arange(len(LABELS)) if indices is None else indices
    preset = augment.build("crop_flip", pad=1)
    asked = indices[redraw.reduced(LABELS[indices], rule["k"])]
    looking = Loader(data, asked, preset=augment.build("none"), batch_size=32, seed=0, shuffle=False)

    def look(number: int):
        wanted = rule["kernel"] == "features"
        return redraw.probabilities(net, looking, number, device=torch.device("cpu"), features=wanted)

    def make(chosen: np.ndarray) -> Loader:
        return Loader(data, chosen, preset=preset, batch_size=8, seed=0)

    return redraw.Redrawn(indices, LABELS[indices], rule=rule, epochs=epochs, seed=3, make=make, look=look)


def test_probabilities_are_of_the_evaluated_network() -> None:
    """Own label, evaluation mode, order of the list; the network comes back as it was."""
    net = network("linear").train()
    indices = np.random.RandomState(1).permutation(len(LABELS))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    loader = Loader(source(), indices, preset=augment.build("none"), batch_size=7, seed=0, shuffle=False)
    p, features = redraw.probabilities(net, loader, 0, device=torch.device("cpu"), features=True)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.eval()
    images = torch.from_numpy(source().images[indices]).float() / 255
    with torch.no_grad():
        expected = net(images).softmax(1)[torch.arange(len(indices)), torch.from_numpy(LABELS[indices])]
        torch.testing.assert_close(torch.from_numpy(features), net.features(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(p, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("sampler", list(dpp.SAMPLERS))
@pytest.mark.parametrize("kernel", ["code", "paper"])
def test_draws_come_at_their_epochs(sampler: str, kernel: str) -> None:
    net = network("linear")
    loader = redrawn(net, sampler=sampler, kernel=kernel)
    size = int(np.minimum(COUNTS, 8).sum())
    assert len(loader) == -(-size // 8)
    for epoch in range(5):
        seen = torch.cat([batch["index"] for batch in loader.epoch(epoch)]).numpy()
        assert len(loader.draws) == 1 + sum(e <= epoch for e in (1, 3))
        assert sorted(seen) == sorted(loader.indices[loader.draws[-1]])
    assert [r["epoch"] for r in loader.records] == [0, 1, 3]
    for picked in loader.draws:
        np.testing.assert_array_equal(np.bincount(LABELS[picked]), np.minimum(COUNTS, 8))
    same = all(np.array_equal(loader.draws[0], other) for other in loader.draws[1:])
    assert same == (sampler in dpp.RELEASED)  # the network does not learn here


def test_official_is_blind_to_the_model_and_knows_its_seed() -> None:
    one, other = redrawn(network("linear"), sampler="official"), redrawn(network("linear"), sampler="official")
    other.look = lambda number: (np.random.RandomState(5).rand(len(other.asked)), None)
    next(one.epoch(0)), next(other.epoch(0))
    np.testing.assert_array_equal(one.draws[0], other.draws[0])
    np.testing.assert_array_equal(one.draws[0], dpp.draw(LABELS, 8, sampler="official"))
    running = redrawn(network("linear"), sampler="official", reseed=False)
    for epoch in range(5):
        next(running.epoch(epoch))
    generator = np.random.RandomState(42)
    for picked in running.draws:
        np.testing.assert_array_equal(picked, dpp.draw(LABELS, 8, sampler="official", source=generator))
    assert not np.array_equal(running.draws[0], running.draws[1])


def test_paper_kernel_prefers_low_p() -> None:
    """200 draws of one class: with the paper's kernel low p comes in more often, with the code's as often."""
    labels, p = np.zeros(40, dtype=np.int64), np.repeat([0.05, 0.95], 20)
    kept = {}
    for kernel in ("paper", "code"):
        rule = {**RULE, "kernel": kernel, "k": 10}
        draws = [redraw.draw(labels, p, None, rule=rule, seed=1, number=i) for i in range(200)]
        kept[kernel] = sum(int((picked < 20).sum()) for picked in draws)
    expected = 1000.0
    assert (kept["paper"] - expected) ** 2 / (expected / 2) > chi2.ppf(0.999, 1)
    assert (kept["code"] - expected) ** 2 / (expected / 2) < chi2.ppf(0.999, 1)


def test_record() -> None:
    net = network("linear")
    loader = redrawn(net)
    for epoch in range(2):
        next(loader.epoch(epoch))
    first, second = (r["classes"] for r in loader.records)
    assert [r["available"] for r in first] == COUNTS.tolist()
    assert [r["kept"] for r in first] == np.minimum(COUNTS, 8).tolist()
    assert "overlap" not in first[0]
    shared = np.intersect1d(loader.draws[0], loader.draws[1])
    assert [r["overlap"] for r in second] == np.bincount(LABELS[shared], minlength=4).tolist()
    p = loader.seen[0]
    assert np.isnan(p[LABELS == 3]).all() and np.isfinite(p[LABELS < 3]).all()  # class 3 stays whole: not looked at
    assert first[3]["mean_p"] is first[3]["mean_p_kept"] is first[3]["log_det"] is None
    assert first[0]["mean_p"] == pytest.approx(float(p[LABELS == 0].mean()), rel=1e-6)
    assert first[0]["mean_p_kept"] == pytest.approx(
        float(p[loader.draws[0]][LABELS[loader.draws[0]] == 0].mean()), rel=1e-6
    )
    dense = dpp.kernel_matrix(p[LABELS == 0].astype(np.float64), "paper")
    inside = np.flatnonzero(np.isin(np.flatnonzero(LABELS == 0), loader.draws[0]))
    assert first[0]["log_det"] == pytest.approx(np.linalg.slogdet(dense[np.ix_(inside, inside)])[1], rel=1e-9)


def test_classes_within_k_are_not_looked_at() -> None:
    """With k at the size of the largest class everything stays, for any sampler, and no p is measured."""
    assert redrawn(network("linear"), k=25).asked.tolist() == list(range(40))
    for kernel in ("paper", "features"):
        whole = redrawn_whole(kernel)
        next(whole.epoch(0))
        assert sorted(whole.draws[0]) == list(range(len(LABELS)))
        assert np.isnan(whole.seen[0]).all() and whole.records[0]["classes"][0]["mean_p"] is None


def redrawn_whole(kernel: str) -> redraw.Redrawn:
    def look(number: int):
        raise AssertionError("measured for nothing")

    def make(chosen: np.ndarray) -> Loader:
        return Loader(source(), chosen, preset=augment.build("none"), batch_size=8, seed=0)

    rule = {**RULE, "k": 40, "kernel": kernel}
    return redraw.Redrawn(np.arange(len(LABELS)), LABELS, rule=rule, epochs=5, seed=3, make=make, look=look)


def test_feature_kernel() -> None:
    loader = redrawn(network("linear"), kernel="features", k=4)
    next(loader.epoch(0))
    assert np.bincount(LABELS[loader.draws[0]]).tolist() == [4, 4, 4, 4]
    assert all(r["log_det"] is None or np.isfinite(r["log_det"]) for r in loader.records[0]["classes"])
    with pytest.raises(UserError, match="class 0: the feature kernel has rank"):
        redraw.draw(
            LABELS, np.nan_to_num(loader.seen[0]), np.ones((len(LABELS), 2)), rule=loader.rule, seed=0, number=0
        )


def training(loader_of, stop_after: int | None = None, saved: dict | None = None):
    """Five epochs of fine-tuning; returns the state, interrupted after so many updates."""
    net = network("linear")
    loader = loader_of(net)
    state = TrainState(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.0),
        task=tasks.build("classify", model=net, loss=losses.build("cross_entropy", class_counts=COUNTS), mix=None),
        loader=loader,
    )
    if saved:
        state.load_state_dict(saved)
    stop, done = Stop(), [0]

    def after_step(_state) -> None:
        done[0] += 1
        if done[0] == stop_after:
            stop.signal = 15

    settings = Settings(epochs=5, seed=0, schedule=lambda epoch, step: 0.05, device=torch.device("cpu"))
    kept: list[bytes] = []

    def save(state) -> None:
        import io

        buffer = io.BytesIO()
        torch.save(state.state_dict(), buffer)
        kept.append(buffer.getvalue())

    try:
        fit(state, settings, Hooks(save=save, after_step=after_step), stop)
    except Exception as error:
        assert type(error).__name__ == "Interrupted", error
        import io

        return state, torch.load(io.BytesIO(kept[-1]), weights_only=True)
    return state, None


@pytest.mark.parametrize(("sampler", "stop_after"), [("exact", 1), ("exact", 5), ("official", 14), ("mcmc", 9)])
def test_an_interrupted_run_draws_the_same(sampler: str, stop_after: int) -> None:
    whole, _ = training(lambda net: redrawn(net, sampler=sampler))
    _, saved = training(lambda net: redrawn(net, sampler=sampler), stop_after=stop_after)
    resumed, _ = training(lambda net: redrawn(net, sampler=sampler), saved=saved)
    assert len(whole.loader.draws) == 3
    for a, b in zip(whole.loader.draws, resumed.loader.draws, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(whole.loader.seen, resumed.loader.seen, strict=True):
        np.testing.assert_array_equal(a, b)
    assert json.dumps(whole.loader.records) == json.dumps(resumed.loader.records)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_outputs(tmp_path: Path) -> None:
    indices = np.random.RandomState(2).permutation(len(LABELS))
    loader = redrawn(network("linear"), indices=indices)
    for epoch in range(5):
        next(loader.epoch(epoch))
    loader.write(tmp_path / "draws")
    assert sorted(p.name for p in (tmp_path / "draws").iterdir()) == sorted(
        [*(f"draw{i}.npy" for i in range(3)), *(f"p{i}.npy" for i in range(3)), "draws.json"]
    )
    kept = np.load(tmp_path / "draws" / "draw1.npy")
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, indices[loader.draws[1]])
    records = json.loads((tmp_path / "draws" / "draws.json").read_text())
    assert [(r["draw"], r["epoch"], r["sampler"], r["kernel"]) for r in records] == [
        (0, 0, "exact", "paper"), (1, 1, "exact", "paper"), (2, 3, "exact", "paper"),
    ]  # fmt: skip


class Lists:
    """What the rule asks of a split."""

    def __init__(self, train: np.ndarray) -> None:
        self.train = train

    @staticmethod
    def relabel(labels: np.ndarray) -> np.ndarray:
        return labels


def stored(folder: Path, order: np.ndarray, **more) -> Path:
    rng = np.random.RandomState(0)
    logits = rng.standard_normal((len(LABELS), 4)).astype(np.float32)
    np.savez(folder / "predictions.npz", logits=logits[order], labels=LABELS[order], indices=order, **more)
    return folder


def test_subset_rule(tmp_path: Path) -> None:
    """p belongs to its image whatever the order of the stored rows; each index is a draw of its own."""
    train = np.random.RandomState(3).permutation(len(LABELS))
    folders = []
    for name, order in (("a", train), ("b", np.sort(train))):
        (tmp_path / name).mkdir()
        folders.append(stored(tmp_path / name, order))
    given = {"index": 0, "seed": 0, "k": 8}
    a, b = (determinantal.drawn(source(), Lists(train), inputs={"predictions": f}, **given) for f in folders)
    np.testing.assert_array_equal(a, b)
    assert np.bincount(LABELS[a]).tolist() == np.minimum(COUNTS, 8).tolist()
    assert np.isin(a, train).all() and len(set(a.tolist())) == len(a)
    other = determinantal.drawn(source(), Lists(train), inputs={"predictions": folders[0]}, **{**given, "index": 1})
    assert not np.array_equal(a, other)
    p, _ = determinantal.seen(folders[1] / "predictions.npz", train, LABELS[train], kernel="paper")
    logits = np.random.RandomState(0).standard_normal((len(LABELS), 4)).astype(np.float32)
    expected = torch.from_numpy(logits).double().softmax(1).numpy()[train, LABELS[train]]
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    with pytest.raises(UserError, match="set of: <stage>"):
        determinantal.drawn(source(), Lists(train), inputs={}, **given)
    with pytest.raises(UserError, match="not the predictions of this split"):
        determinantal.drawn(source(), Lists(train[:-1]), inputs={"predictions": folders[0]}, **given)
    with pytest.raises(UserError, match="outputs: \\[features\\]"):
        determinantal.drawn(source(), Lists(train), inputs={"predictions": folders[0]}, kernel="features", **given)
    blind = determinantal.drawn(source(), Lists(train), inputs={}, sampler="official", **given)
    np.testing.assert_array_equal(blind, train[dpp.draw(LABELS[train], 8, sampler="official")])
