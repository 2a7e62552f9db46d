"""The ordinary way: what published code for long-tailed recognition does, in this project's own words and short.

One image at a time through Pillow, tensors that grow by concatenation, a scan of all labels per class, dense
matrices where a formula would do. ANCHORS holds what each took, in microseconds of one core, on the machine
described in docs/performance.md: a reference that is slower than that flatters us, and its case is red.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import lt.compat  # noqa: F401  (before torchvision)

ANCHORS = {
    "crop_flip": 163.0,  # an image
    "simclr": 948.0,  # a view
    "photo_crop": 2000.0,  # an image of 500 x 400, 63 KB
    "resnet32_step": 1e6 / 170,  # an image
    "vit_step": 1e6 / 34,  # an image
    "bns": 1.45e6,  # a batch of 256
    "dpp_chain": 289e3,  # a draw of 500 from 5,000
    "class_accuracy": 80e3,  # 50,000 predictions of 1,000 classes
    "class_map": 5.4e6,  # ImageNet-LT's list
    "collect": 23.3e6,  # 50,000 rows of 1,000 logits in batches of 128
    "pn": 0.89e6,  # a tau, 50,000 x 1,000
    "generator": 6.7,  # a sample
}

# images ---------------------------------------------------------------------------------------------------------


def crop_flip(images: np.ndarray, rows: np.ndarray | None, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[N, H, W, C] uint8, one by one: pad 4, crop, mirror, to a tensor, normalise, collate.

    `rows` fixes what else is drawn image by image.
    """
    from torchvision import transforms as T
    from torchvision.transforms import functional as TF

    batch = []
    for number, pixels in enumerate(images):
        image = TF.pad(Image.fromarray(pixels), 4)
        if rows is None:
            top, left, _, _ = T.RandomCrop.get_params(image, pixels.shape[:2])
            mirrored = bool(torch.rand(1) < 0.5)
        else:
            top, left, mirrored = int(rows[number][0] * 9), int(rows[number][1] * 9), rows[number][2] < 0.5
        image = TF.crop(image, top, left, *pixels.shape[:2])
        image = TF.hflip(image) if mirrored else image
        batch.append(TF.normalize(TF.to_tensor(image), mean, std))
    return torch.stack(batch)


def photo_crops(files: Sequence[str], drawn: Sequence[tuple[Sequence[int], bool]] | None, size: int = 224) -> Tensor:
    """Files one by one: decode, random resized crop, mirror; uint8. `drawn` fixes boxes (top, left, height, width) and
    flips, which are else drawn image by image."""
    from torchvision import transforms as T
    from torchvision.transforms import functional as TF

    batch = []
    for number, file in enumerate(files):
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if drawn is None:
            box = T.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
            mirrored = bool(torch.rand(1) < 0.5)
        else:
            box, mirrored = drawn[number]
        image = TF.resized_crop(image, *box, [size, size])
        batch.append(TF.pil_to_tensor(TF.hflip(image) if mirrored else image))
    return torch.stack(batch)


class Blur:
    """Gaussian blur of one picture by two depthwise convolutions whose weights are set anew for each one."""

    def __init__(self, radius: int) -> None:
        self.radius, width = radius, 2 * radius + 1
        self.pad = nn.ReflectionPad2d(radius)
        self.down = nn.Conv2d(3, 3, (width, 1), bias=False, groups=3)
        self.across = nn.Conv2d(3, 3, (1, width), bias=False, groups=3)

    def __call__(self, image: Image.Image, sigma: float) -> Image.Image:
        from torchvision.transforms import functional as TF

        x = np.arange(-self.radius, self.radius + 1)
        taps = np.exp(-(x**2) / (2 * sigma * sigma))
        taps = torch.from_numpy(taps / taps.sum()).float().repeat(3, 1)
        self.across.weight.data.copy_(taps.view(3, 1, 1, -1))
        self.down.weight.data.copy_(taps.view(3, 1, -1, 1))
        with torch.no_grad():
            blurred = self.down(self.across(self.pad(TF.to_tensor(image).unsqueeze(0)))).squeeze()
        return TF.to_pil_image(blurred)


def simclr_draws() -> dict[str, Any]:
    """What torchvision's transforms draw for one view of a 32 x 32 picture."""
    from torchvision import transforms as T

    frame, jitter = torch.empty(3, 32, 32), T.ColorJitter(1.6, 1.6, 1.6, 0.4)
    drawn = {"box": T.RandomResizedCrop.get_params(frame, [0.08, 1.0], [3 / 4, 4 / 3])}
    drawn["flip"] = bool(torch.rand(1) < 0.5)
    order, *factors = T.ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    wanted = bool(torch.rand(1) < 0.8)
    drawn["jitter"] = [(int(op), factors[int(op)]) for op in order] if wanted else []
    drawn["grey"] = bool(torch.rand(1) < 0.2)
    drawn["sigma"] = float(np.random.uniform(0.1, 2.0))
    return drawn


def simclr_view(image: Image.Image, drawn: dict[str, Any], blur: Blur) -> Tensor:
    from torchvision.transforms import functional as TF

    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    image = TF.resized_crop(image, *drawn["box"], [32, 32])
    image = TF.hflip(image) if drawn["flip"] else image
    for op, factor in drawn["jitter"]:
        image = adjust[op](image, factor)
    image = TF.to_grayscale(image, 3) if drawn["grey"] else image
    return TF.to_tensor(blur(image, drawn["sigma"]))


def simclr(images: np.ndarray, drawn: Sequence[dict[str, Any]] | None = None) -> list[Tensor]:
    """Two views of each of [N, H, W, C]; `drawn` fixes what else is drawn image by image."""
    blur, views = Blur(1), [[], []]
    for number, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        for side, view in enumerate(views):
            given = simclr_draws() if drawn is None else drawn[2 * number + side]
            view.append(simclr_view(image, given, blur))
    return [torch.stack(view) for view in views]


# training -------------------------------------------------------------------------------------------------------


def accuracy(logits: Tensor, target: Tensor) -> float:
    """Top-1 of one batch, read back at once."""
    _, found = logits.topk(1, 1, True, True)
    return found.t().eq(target.view(1, -1)).float().sum().item() / len(target)


def train_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    """fp32, NCHW; loss and accuracy are read every step."""
    losses = []
    network.train()
    for images, target in batches:
        logits = network(images)
        loss = criterion(logits, target)
        accuracy(logits.detach(), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


# losses and sampling --------------------------------------------------------------------------------------------


def bns(first: Tensor, second: Tensor, labels: Tensor, tau: float = 0.5) -> Tensor:
    """Balanced negative sampling with cosines of all pairs from a broadcast [2B, 2B, d] tensor."""
    z, label = F.normalize(torch.cat([first, second])), torch.cat([labels, labels])
    similar = torch.exp(F.cosine_similarity(z.unsqueeze(1), z.unsqueeze(0), dim=2) / tau)
    same = label.unsqueeze(0) == label.unsqueeze(1)
    alike = same & ~torch.eye(len(z), dtype=torch.bool)
    pos = (similar * alike).sum(1) / alike.sum(1).clamp(min=1)
    neg = (similar * ~same).sum(1) / len(z)
    return -(torch.log(torch.sigmoid(pos)) + torch.log(1 - torch.sigmoid(neg))).mean()


def dpp_matrix(p: np.ndarray) -> np.ndarray:
    """The dense kernel of one class: 1 - a p_i (s - p_i) on the diagonal, a p_i p_j beside it, a = 1 / N^2."""
    matrix = np.outer(p, p) / len(p) ** 2
    np.fill_diagonal(matrix, 1 - p * (p.sum() - p) / len(p) ** 2)
    return matrix


def dpp_chain(p: np.ndarray, k: int, source: np.random.RandomState, states: int = 10) -> np.ndarray:
    """Exchange chain with a dense determinant a state."""
    matrix, items = dpp_matrix(p), np.arange(len(p))
    while True:
        state = source.choice(len(p), size=k, replace=False)
        level = np.linalg.det(matrix[np.ix_(state, state)])
        if level > 1e-9:
            break
    chain = [state]
    for _ in range(states - 1):
        state = chain[-1]
        if source.rand() < 0.5:
            moved, place = state.copy(), source.choice(k)
            moved[place] = np.delete(items, state)[source.choice(len(p) - k)]
            proposed = np.linalg.det(matrix[np.ix_(moved, moved)])
            if source.rand() < proposed / level:
                state, level = moved, proposed
        chain.append(state)
    return np.array(chain)


def dppy(matrix: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The library's exact sampler on the dense kernel."""
    from dppy.finite_dpps import FiniteDPP

    return np.array(FiniteDPP("likelihood", L=matrix).sample_exact_k_dpp(size=k, random_state=seed))


def draws_by_generators(seed: int, epoch: int, indices: Sequence[int], columns: int) -> np.ndarray:
    """A generator of its own for each sample, the usual way to make draws a function of the index."""
    out = np.empty((len(indices), columns), dtype=np.float32)
    for row, index in enumerate(indices):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + int(index))
        out[row] = torch.rand(columns, generator=generator).numpy()
    return out


# evaluation -----------------------------------------------------------------------------------------------------


def collect(batches: Iterable[Tensor], classes: int) -> Tensor:
    """All logits, in a tensor that grows with every batch."""
    total = torch.empty((0, classes))
    for logits in batches:
        total = torch.cat((total, logits))
    return total


def class_accuracy(pred: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A scan over all predictions for each class."""
    return np.array([(pred[labels == c] == labels[labels == c]).sum() / (labels == c).sum() for c in np.unique(labels)])


def pn_scores(logits: np.ndarray, tau: float) -> Tensor:
    """Prediction normalisation from the logits on, each time anew: softmax, column sums, divide, softmax."""
    p = torch.softmax(torch.from_numpy(logits), dim=1)
    return torch.softmax(p / p.sum(0) ** tau, dim=1)


def pn(logits: np.ndarray, tau: float) -> np.ndarray:
    return pn_scores(logits, tau).max(1)[1].numpy()


def class_map(text: str) -> tuple[list[str], list[int], list[int]]:
    """List file to paths, labels in order of class size, and class counts: the labels are scanned twice a class."""
    paths, labels = [], []
    for line in text.splitlines():
        paths.append(line.split()[0])
        labels.append(int(line.split()[1]))
    counts = [int(np.sum(np.array(labels) == c)) for c in range(max(labels) + 1)]
    place = [0] * len(counts)
    for new, old in enumerate(np.argsort(-np.array(counts), kind="stable")):
        place[old] = new
    labels = [place[label] for label in labels]
    counts = [int(np.sum(np.array(labels) == c)) for c in range(len(counts))]
    return paths, labels, counts
