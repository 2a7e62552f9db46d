"""Figures: each takes plain data and a path (.svg, .png, .pdf). matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Callable

from lt.figures.ablation import loss_ablation
from lt.figures.cost import cost_against_accuracy
from lt.figures.curves import training_curves
from lt.figures.groups import group_bars
from lt.figures.harmonic import hm_gm_against_mean
from lt.figures.inclusion import inclusion_against_p
from lt.figures.per_class import accuracy_by_size
from lt.figures.reliability import reliability
from lt.figures.tau import tau_sweep

FIGURES: dict[str, Callable[..., None]] = {
    "per_class": accuracy_by_size,
    "groups": group_bars,
    "hm_gm": hm_gm_against_mean,
    "reliability": reliability,
    "curves": training_curves,
    "tau": tau_sweep,
    "cost": cost_against_accuracy,
    "ablation": loss_ablation,
    "inclusion": inclusion_against_p,
}
