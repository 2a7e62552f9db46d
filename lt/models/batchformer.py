"""BatchFormer: one transformer encoder layer that attends across the samples of a training batch.

X [N, d] is read as a sequence of N samples (no position, no mask), post-norm, ReLU, feed-forward width d:
X1 = LN1(X + drop(MHA(X, X, X))), X2 = LN2(X1 + drop(W2 drop(relu(W1 X1 + b1)) + b2)).
Source: BatchFormer, CVPR 2022, arXiv 2203.01522, and the released long-tail code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lt import distributed
from lt.errors import UserError

# Released option value -> encoder layers. 1 replaces the features; 32 and 33 keep a by-pass through the same
# classifiers; 12 and 13 are the deep ablations.
ADD_BT = {0: 0, 1: 1, 12: 8, 13: 6, 32: 1, 33: 1}
TWO_STREAMS = (32, 33)


def encoder_layers(add_bt: int) -> int:
    """Number of encoder layers that an `add_bt` value stands for."""
    if add_bt == 22:
        raise UserError("add_bt 22 doubles the features but not the labels and cannot train; take 33")
    if add_bt not in ADD_BT:
        raise UserError(f"unknown add_bt {add_bt!r}; known: {', '.join(map(str, ADD_BT))}")
    return ADD_BT[add_bt]


def stream_weights(add_bt: int, *, cifar: bool) -> tuple[float, ...]:
    """Weight of each stream's loss, in the order of `RideNet.streams`: (encoded, by-pass).

    33 adds the two losses. 32 means 0.01 (encoded + by-pass) + by-pass in the CIFAR networks and is the same as
    33 in the ImageNet ones.
    """
    encoder_layers(add_bt)
    if add_bt not in TWO_STREAMS:
        return (1.0,)
    return (0.01, 1.01) if add_bt == 32 and cifar else (1.0, 1.0)


class BatchFormer(nn.Module):
    """Encoder over the batch axis of [N, d] or, one sequence per expert, [E, N, d]; the identity in eval mode.

    `group_size` cuts the batch into consecutive groups that do not see each other (the released code attends
    within one device's slice, so this is a number of the recipe); a shorter last group stays a group.
    `across_ranks` first joins the batches of all processes in rank order, so that a group may span them.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int | None = None,
        layers: int = 1,
        dropout: float = 0.5,
        group_size: int | None = None,
        across_ranks: bool = False,
    ) -> None:
        super().__init__()
        heads = heads or (4 if dim > 128 else 1)
        if dim % heads:
            raise UserError(f"BatchFormer: {dim} features cannot be divided among {heads} heads")
        if layers < 1:
            raise UserError(f"BatchFormer: layers must be at least 1, not {layers}")
        if group_size is not None and group_size < 1:
            raise UserError(f"BatchFormer: group_size must be at least 1, not {group_size}")
        layer = nn.TransformerEncoderLayer(dim, heads, dim_feedforward=dim, dropout=dropout)
        # A stack starts from copies of one layer, as in the released code.
        self.encoder = layer if layers == 1 else nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.group_size = group_size
        self.across_ranks = across_ranks

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or features.shape[-2] == 0:
            return features
        rows = features.unsqueeze(0) if features.ndim == 2 else features
        rows = rows.transpose(0, 1)  # [N, E, d]: the encoder wants the sequence first
        if self.across_ranks and distributed.world() > 1:
            everyone, start = distributed.gather_grad(rows)
            encoded = encode_groups(self.encoder, everyone, self.group_size)[start : start + len(rows)]
        else:
            encoded = encode_groups(self.encoder, rows, self.group_size)
        encoded = encoded.transpose(0, 1)
        return encoded.squeeze(0) if features.ndim == 2 else encoded


def encode_groups(encoder: Callable[[Tensor], Tensor], rows: Tensor, group_size: int | None) -> Tensor:
    """Encode [N, E, d] in consecutive groups; all full groups go through in one call as a batch of sequences."""
    count, experts, dim = rows.shape
    size = min(group_size or count, count)
    groups = count // size
    full = rows[: groups * size].reshape(groups, size, experts, dim).transpose(0, 1)
    full = encoder(full.reshape(size, groups * experts, dim))
    full = full.reshape(size, groups, experts, dim).transpose(0, 1).reshape(groups * size, experts, dim)
    if groups * size == count:
        return full
    return torch.cat([full, encoder(rows[groups * size :])])


def two_stream_features(features: Tensor, encoder: Callable[[Tensor], Tensor]) -> Tensor:
    """[enc(X); X], the input of a shared classifier."""
    return torch.cat([encoder(features), features])


class _SharedClassifier:
    """Mixed in before a plain classifier network that carries a `batchformer`."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        if self.training:
            features = two_stream_features(features, self.batchformer)
        return self.classify(features)


def with_batchformer(net: nn.Module, *, heads: int = 4, **options: Any) -> nn.Module:
    """Give a plain classifier network an encoder before its head, shared by both streams (in place).

    Training returns [2B, C]: the encoded stream, then the by-pass; the loss doubles the labels. In eval mode it is
    the plain network, and the plain entries keep their names; the encoder's are `batchformer.*` (the published
    recipes train them at 0.1 of the backbone's rate). 4 heads whatever the width, as in the released
    balanced-softmax code.
    """
    net.batchformer = BatchFormer(net.feature_dim, heads=heads, **options).train(net.training)
    # A subclass made here: the network keeps its entry names, which a wrapper would prefix.
    net.__class__ = type(f"{type(net).__name__}WithBatchFormer", (_SharedClassifier, type(net)), {})
    return net
