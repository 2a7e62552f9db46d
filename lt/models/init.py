"""Initialisations of the papers, by name: each sets what the paper's code sets, the rest is the library's."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def library(model: nn.Module) -> None:
    """PyTorch's own defaults everywhere, also where torchvision would override them (IP-DPP)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()


def fan_in(model: nn.Module) -> None:
    """Kaiming normal, fan-in, gain sqrt 2, convolutions and linear layers (BTM, MiSLAS, RIDE on CIFAR)."""
    fan_in_conv(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def fan_in_conv(model: nn.Module) -> None:
    """Kaiming normal, fan-in, gain sqrt 2, convolutions only (BaGMar on CIFAR)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


def fan_out(model: nn.Module) -> None:
    """Kaiming normal, fan-out: torchvision's and MiSLAS's.

    std = sqrt(2 / (k k out)) whatever the groups, so it is also RIDE's and classifier-balancing's normal.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def fan_out_zero_gamma(model: nn.Module) -> None:
    """As fan_out, and the last normalisation of each residual block starts at 0 (BaGMar, 224-pixel nets)."""
    fan_out(model)
    for module in model.modules():
        last = getattr(module, "bn3", None) or getattr(module, "bn2", None)
        if last is not None:
            nn.init.zeros_(last.weight)


INITS: dict[str, Callable[[nn.Module], None]] = {
    "library": library,
    "fan_in": fan_in,
    "fan_in_conv": fan_in_conv,
    "fan_out": fan_out,
    "fan_out_zero_gamma": fan_out_zero_gamma,
    # the papers' names for the same
    "btm": fan_in,
    "ride": fan_in,
    "bagmar": fan_in_conv,
    "torchvision": fan_out,
    "mislas": fan_out,
    "ride_normal": fan_out,
    "bagmar_zero_gamma": fan_out_zero_gamma,
}
