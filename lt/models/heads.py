"""Classifier heads, and what every classifier network shares: features, classify, head.

A head maps features [B, d] to logits [B, C]. Linear-like heads keep `nn.Linear`'s names (`weight`, `bias`),
so that a stage-2 head takes over a stage-1 classifier by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.errors import UserError, pick


class Network(nn.Module):
    """A backbone with a head named `fc`; `forward(x) = classify(features(x))`.

    `eval_only` names modules that stay in eval mode whatever `.train()` says (see `lt.models.freeze`).
    """

    head_name = "fc"
    feature_dim: int
    eval_only: frozenset[str] = frozenset()

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def head(self) -> nn.Module:
        return getattr(self, self.head_name)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        for name in self.eval_only:
            self.get_submodule(name).train(False)
        return self


class Linear(nn.Linear):
    """W f + b with the library's initialisation."""


class CosineSquash(nn.Module):
    """scale * |x|/(1+|x|) * cos(x, w_c), no bias (OLTR; scale 16 in the decoupling and BaGMar code)."""

    def __init__(self, feature_dim: int, num_classes: int, *, scale: float = 16.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        # |x|/(1+|x|) * x/|x| = x/(1+|x|), which is also defined at x = 0
        squashed = features / (1 + features.norm(dim=1, keepdim=True))
        return F.linear(self.scale * squashed, F.normalize(self.weight, dim=1))


class CosineNormed(nn.Module):
    """scale * cos(x, W_c), no bias, weight [d, C] (LDAM and RIDE: scale 30 inside the network)."""

    def __init__(self, feature_dim: int, num_classes: int, *, scale: float = 30.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(feature_dim, num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.uniform_(-1, 1)
            self.weight.div_(self.weight.norm(dim=0, keepdim=True))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * (F.normalize(features, dim=1) @ F.normalize(self.weight, dim=0))


def cosine(
    feature_dim: int, num_classes: int, *, form: Literal["squash", "normed"] = "squash", scale: float | None = None
) -> nn.Module:
    """`form: squash` (OLTR, BaGMar; 16) or `form: normed` (LDAM, RIDE; 30)."""
    kind = pick("form of the cosine head", form, {"squash": CosineSquash, "normed": CosineNormed})
    return kind(feature_dim, num_classes) if scale is None else kind(feature_dim, num_classes, scale=scale)


class LWS(nn.Linear):
    """Learnable weight scaling s * (W f + b [+ shift]), s = 1 at the start; s multiplies the bias too.

    `train_linear` false is the decoupling paper's LWS (only s learns); true is MiSLAS (W, b at a small rate).
    `shift` [C] is added before the scale (BaGMar in training: log theta, no eps).
    """

    def __init__(self, feature_dim: int, num_classes: int, *, train_linear: bool = True) -> None:
        super().__init__(feature_dim, num_classes)
        self.scales = nn.Parameter(torch.ones(num_classes))
        self.frozen = () if train_linear else ("weight", "bias")
        for name in self.frozen:
            getattr(self, name).requires_grad_(False)

    def forward(self, features: Tensor, shift: Tensor | None = None) -> Tensor:
        logits = F.linear(features, self.weight, self.bias)
        return (logits if shift is None else logits + shift) * self.scales


def tau_normalised(weight: Tensor, tau: float) -> Tensor:
    """w_c / |w_c|^tau per row; a zero row stays zero."""
    norm = weight.norm(dim=1, keepdim=True)
    return weight / torch.where(norm > 0, norm, torch.ones_like(norm)) ** tau


class TauNorm(nn.Module):
    """f . w_c / |w_c|^tau: a trained linear classifier, its bias dropped."""

    def __init__(self, feature_dim: int, num_classes: int, *, tau: float = 1.0) -> None:
        super().__init__()
        self.tau = tau
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, tau: float = 1.0) -> TauNorm:
        head = cls(linear.in_features, linear.out_features, tau=tau).to(linear.weight)
        head.load_state_dict({"weight": linear.weight})
        return head

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, tau_normalised(self.weight, self.tau))


def _distances(query: Tensor, centres: Tensor) -> Tensor:
    # differences, not |q|^2 + |c|^2 - 2 q.c, which cancels for features far from the origin
    return torch.cdist(query, centres, compute_mode="donot_use_mm_for_euclid_dist")


NCM_FORMS = ("un", "l2n", "cl2n")
NCM_METRICS = {
    "l2": lambda query, centres: -_distances(query, centres).square(),
    "cos": lambda query, centres: query @ centres.T / centres.shape[1],  # named so by the code; no norms
}


class NCM(nn.Module):
    """Nearest class mean. `form`: un (raw), l2n (features to unit length), cl2n (centred, then unit length).

    Means are not re-normalised; queries get the same transform. `metric` l2: -|q - c|^2; cos: q . c / d.
    A class without training features gets the lowest finite logit.
    """

    def __init__(self, feature_dim: int, num_classes: int, *, form: str = "cl2n", metric: str = "l2") -> None:
        super().__init__()
        pick("form of the class means", form, dict.fromkeys(NCM_FORMS))
        pick("metric of the class means", metric, NCM_METRICS)
        self.form, self.metric = form, metric
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("centroids", torch.zeros(num_classes, feature_dim))
        self.register_buffer("present", torch.zeros(num_classes, dtype=torch.bool))

    def _transform(self, features: Tensor) -> Tensor:
        if self.form == "un":
            return features
        return F.normalize(features - self.mean if self.form == "cl2n" else features, dim=1)

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> NCM:
        """Class means of the training features [N, d]."""
        if len(features) == 0:
            raise UserError("class means need at least one training feature, got none")
        self.to(features)
        self.mean = features.mean(0)
        counts = torch.bincount(labels, minlength=len(self.centroids)).to(features)
        sums = torch.zeros_like(self.centroids).index_add_(0, labels, self._transform(features))
        self.present = counts > 0
        self.centroids = sums / counts.clamp(min=1)[:, None]
        return self

    def forward(self, features: Tensor) -> Tensor:
        logits = NCM_METRICS[self.metric](self._transform(features), self.centroids)
        return logits.masked_fill(~self.present, torch.finfo(logits.dtype).min)


def projector(feature_dim: int, num_classes: int = 128, *, hidden: int = 2048, width: int | None = None) -> nn.Module:
    """SimCLR's two-layer projection to an embedding of `width`, where given in place of `num_classes`."""
    return nn.Sequential(nn.Linear(feature_dim, hidden), nn.ReLU(), nn.Linear(hidden, width or num_classes))


HEADS: dict[str, Callable[..., nn.Module]] = {
    "linear": Linear,
    "cosine": cosine,
    "lws": LWS,
    "tau_norm": TauNorm,
    "ncm": NCM,
    "projector": projector,
}


def build(name: str, feature_dim: int, num_classes: int, **options: object) -> nn.Module:
    factory = pick("head", name, HEADS)
    known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UserError(f"head '{name}' has no option '{option}'; known: {', '.join(known) or 'none'}")
    return factory(feature_dim, num_classes, **options)
