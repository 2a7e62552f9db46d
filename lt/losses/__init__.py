"""Losses by name: `build(name, class_counts=..., **options) -> Loss`.

To add one: a pure function and a `Loss` in a module here, one line below, golden numbers in tests/golden.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from lt.errors import UserError, nearest, pick
from lt.losses.balanced import BalancedSoftmax, ClassBalanced, GeneralisedMean, Lade
from lt.losses.base import Loss
from lt.losses.bce import BalancedBce, Bce
from lt.losses.contrastive import Bns, BnsEq12
from lt.losses.experts import Ride
from lt.losses.margin import BaGMar, Ldam
from lt.losses.smoothing import LabelAwareSmoothing, LabelSmoothing
from lt.losses.softmax import CrossEntropy, Equalisation, Focal

LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": CrossEntropy,
    "focal": Focal,
    "class_balanced": ClassBalanced,  # form: ce | bce | softmax | focal
    "balanced_softmax": BalancedSoftmax,  # LiVT's Bal-CE
    "logit_adjustment": BalancedSoftmax,  # the same formula under its other name (arXiv 2007.07314)
    "bce": Bce,
    "bal_bce": BalancedBce,
    "lade": Lade,  # form: full | livt
    "eql": Equalisation,
    "gml": GeneralisedMean,
    "label_smoothing": LabelSmoothing,
    "label_aware_smoothing": LabelAwareSmoothing,  # MiSLAS; form: code | paper
    "ldam": Ldam,  # reweight_epoch: LDAM-DRW
    "bagmar": BaGMar,  # GALA; stateful; form: code | paper
    "bns": Bns,  # on two views: loss(first, second, labels)
    "bns_eq12": BnsEq12,
    "ride": Ride,  # on the logits of several experts [B,E,C]
}


def build(name: str, *, class_counts: object, **options: object) -> Loss:
    """The loss of that name; its constants come from `class_counts` (training images a class, index = label)."""
    factory = pick("loss", name, LOSSES)
    known = [p for p in inspect.signature(factory).parameters if p != "class_counts"]
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "; it has none"
            raise UserError(f"loss '{name}' has no option '{option}'{hint}")
    return factory(class_counts=class_counts, **options)
