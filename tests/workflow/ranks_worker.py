"""Started by torchrun from test_ranks.py: each rank checks what only ranks can, rank 0 writes what it found."""

import json
import sys

import torch
import torch.distributed as dist

from lt import distributed, engine, losses, models
from lt.tasks.classify import Classify

SEED, IMAGES, BATCH, ACCUMULATE = 0, 22, 6, 2  # the last batch of an epoch is ragged: 4 images
LOSSES = {  # what is trained by its name: the loss, its options, micro-batches an update
    "cross_entropy": ("cross_entropy", {}, ACCUMULATE),
    "bagmar": ("bagmar", {"micro_batches": ACCUMULATE}, ACCUMULATE),
    "bagmar_single": ("bagmar", {"micro_batches": ACCUMULATE, "accumulate": "single"}, ACCUMULATE),
    "bagmar_bal": ("bagmar", {"micro_batches": ACCUMULATE, "weighting": "neg_pos_bal"}, ACCUMULATE),
    "bagmar_bal_norm": ("bagmar", {"weighting": "neg_pos_bal_norm"}, 1),
    "lade": ("lade", {}, ACCUMULATE),
    "gml": ("gml", {}, ACCUMULATE),
    "class_balanced": ("class_balanced", {}, ACCUMULATE),
    "ldam": ("ldam", {"scale": 2.0, "reweight_epoch": 0}, ACCUMULATE),
}


class Batches:
    """Every world-th image of each batch, as the product's loader shares them out."""

    def __init__(self, device, images=IMAGES):
        source = torch.Generator().manual_seed(1)
        self.x = torch.randn(images, 5, generator=source).to(device)
        self.y = torch.randint(3, (images,), generator=source).to(device)

    def size(self, step):
        return min(BATCH, len(self.x) - step * BATCH)

    def epoch(self, epoch, start=0):
        for step in range(start, -(-len(self.x) // BATCH)):
            part = slice(step * BATCH + distributed.rank(), min((step + 1) * BATCH, IMAGES), distributed.world())
            yield {"image": self.x[part], "target": self.y[part]}

    def state_dict(self):
        return {}


class ByRank(torch.nn.BatchNorm2d):
    """One process doing what two ranks do: each normalises its own images, every second one of the batch."""

    def forward(self, x):
        out = torch.empty_like(x)
        for part in (slice(0, None, 2), slice(1, None, 2)):
            out[part] = super().forward(x[part])
        return out


def network(norm):
    """`norm`: none, own (each rank its images), by rank (the same on one rank), all (over all ranks)."""
    torch.manual_seed(0)
    if norm == "none":
        return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    kind = ByRank if norm == "by rank" else torch.nn.BatchNorm2d
    body = (torch.nn.Unflatten(1, (5, 1, 1)), torch.nn.Conv2d(5, 7, 1), kind(7), torch.nn.Tanh())
    model = torch.nn.Sequential(*body, torch.nn.Flatten(), torch.nn.Linear(7, 3))
    return models.sync_norms(model) or model if norm == "all" and distributed.world() > 1 else model


def trained(device, *, loss_name="cross_entropy", epochs=2, stop=None, norm="none"):
    model = network(norm).to(device)
    torch.manual_seed(0)
    name, options, accumulate = LOSSES[loss_name]
    loss = losses.build(name, class_counts=[100, 7, 5], **options).to(device)
    images = IMAGES - (norm == "none")  # of the last batch a rank then has 2 images and the other 1
    state = engine.TrainState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        task=Classify(model=model, loss=loss),
        loader=Batches(device, images),
    )
    settings = engine.Settings(
        epochs=epochs, seed=SEED, schedule=lambda e, s: 0.5, device=device, accumulate=accumulate
    )
    engine.fit(state, settings, engine.Hooks(), stop or engine.Stop())
    return state


def normalised(device):
    """A network with batch normalisation over all ranks: its weights and running statistics after ragged batches."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 1, 5)), torch.nn.Conv2d(1, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(20, 3),
    ).to(device).double()  # fmt: skip
    models.sync_norms(model)
    loader = Batches(device)
    loader.x = loader.x.double()
    state = engine.TrainState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        task=Classify(model=model, loss=torch.nn.CrossEntropyLoss()),
        loader=loader,
    )
    settings = engine.Settings(epochs=2, seed=SEED, schedule=lambda e, s: 0.1, device=device)
    engine.fit(state, settings, engine.Hooks(), engine.Stop())
    return [v.double().flatten().tolist() for v in model.state_dict().values()]


def counted(device):
    """Reductions of gradients and all others in one epoch of 4 micro-batches, 2 updates."""
    calls = {"gradients": 0, "others": 0}
    original = dist.all_reduce

    def all_reduce(*args, **given):
        calls["others"] += 1
        return original(*args, **given)

    def hook(_, bucket):
        calls["gradients"] += 1
        mean = bucket.buffer().div_(distributed.world())
        return original(mean, async_op=True).get_future().then(lambda f: f.value()[0])

    wrap = distributed.wrap

    def wrapped(*args, **given):
        network = wrap(*args, **given)
        network.register_comm_hook(None, hook)
        return network

    dist.all_reduce, distributed.wrap = all_reduce, wrapped
    trained(device, loss_name="cross_entropy", epochs=1)
    dist.all_reduce, distributed.wrap = original, wrap
    return calls


def main():
    found = {}
    with distributed.ranks() as device:
        for name in LOSSES:
            state = trained(device, loss_name=name)
            found[name] = {
                "weights": [p.tolist() for p in state.model.parameters()],
                "losses": [row["loss"] for row in state.history],
                "top1": [row["train_top1"] for row in state.history],
                "task": {k: v.tolist() for k, v in state.task.state_dict()["loss"].items()},
            }
        found["synced"] = normalised(device)
        own = "own" if distributed.world() > 1 else "by rank"
        for name, norm in (("norms of a rank", own), ("norms of all ranks", "all")):
            state = trained(device, norm=norm)
            found[name] = {
                "weights": [p.tolist() for p in state.model.parameters()],
                "losses": [row["loss"] for row in state.history],
            }
        if distributed.world() > 1:
            found["calls"] = counted(device)
            stop = engine.Stop()
            stop.signal = 15 if distributed.rank() else None
            try:
                trained(device, loss_name="cross_entropy", stop=stop)
            except engine.Interrupted as error:
                found["stopped"] = str(error)
            rows = torch.arange(3 - distributed.rank())[:, None] + 10 * distributed.rank()
            found["rows"] = distributed.gather_rows(rows).tolist()
        if distributed.is_main():
            with open(sys.argv[1], "w") as file:
                json.dump(found, file)


main()
