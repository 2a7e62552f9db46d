"""Several sets of weights become one.

A rule takes state dicts (any iterable, read one at a time) and returns one. `merge_files` feeds a rule from
safetensors files, some stretches of entries at a time: memory does not grow with the number of models, and sums stay
in the processor's cache.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lt.errors import UserError, nearest, pick

State = Mapping[str, Tensor]
Piece = tuple[str, int, int]  # an entry, and a stretch of it read flat
GROUP_ELEMENTS = 1 << 17  # of one model at a time; their float64 sums are 1 MiB


def mean(states: Iterable[State]) -> dict[str, Tensor]:
    """Plain mean of every entry, BN statistics included.

    Summed in float64 and rounded once to the type of the first model, so equal models come back bit for bit
    and the order does not matter beyond float64; counters are rounded to the nearest whole number.
    """
    total, like, count = _sum64(states)
    return {name: _cast(name, value.div_(count), like[name]) for name, value in total.items()}


def published(states: Iterable[State]) -> dict[str, Tensor]:
    """The mean as released with BTM: float32 products with the literal 1/N, added in the order given.

    Counters become floating point, as there (ten 3s give 2.9999998, which loads as 2).
    """
    states = list(states) if not isinstance(states, Sequence) else states
    if not len(states):
        raise UserError("merge: no models given")
    weight, merged = 1.0 / len(states), {}
    for position, state in enumerate(_checked(states)):
        for name, value in state.items():
            merged[name] = value * weight if position == 0 else merged[name] + value * weight
    return _finite(merged)


def soup(states: Iterable[State]) -> dict[str, Tensor]:
    """Running mean, one model at a time: m <- r m + (1 - r) next, r = i/(i + 1), in the models' type."""
    merged: dict[str, Tensor] = {}
    for position, state in enumerate(_checked(states)):
        ratio = position / (position + 1)
        for name, value in state.items():
            merged[name] = value.clone() if position == 0 else merged[name] * ratio + value * (1 - ratio)
    return _finite(merged)


def greedy_soup(
    states: Sequence[State],
    *,
    score: Callable[[dict[str, Tensor]], float],
    chosen: list[int] | None = None,
) -> dict[str, Tensor]:
    """Best model first, then every other one, best to worst, if the mean with it scores no lower.

    `score` is measured on validation data (here: the geometric mean over classes) and larger is better.
    `chosen` receives the positions that went in, in that order.
    """
    if not isinstance(states, Sequence):
        raise UserError("merge: greedy_soup reads its models more than once; pass a sequence")
    copies = ({n: v.clone() for n, v in state.items()} for state in _checked(states))
    scores = [_score(score, state, f"model {i}") for i, state in enumerate(copies)]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept, best = order[:1], scores[order[0]]
    total, like, _ = _sum64([states[kept[0]]])
    for i in order[1:]:
        state, count = states[i], len(kept) + 1
        trial = {n: _cast(n, (v + state[n].double()) / count, like[n]) for n, v in total.items()}
        found = _score(score, trial, f"the mean with model {i}")
        if found >= best:
            best = found
            kept.append(i)
            for name, value in total.items():
                _add(value, state[name])
    if chosen is not None:
        chosen[:] = kept
    return {name: _cast(name, value.div_(len(kept)), like[name]) for name, value in total.items()}


def interpolate(states: Iterable[State], *, stage1: State, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) stage1 + alpha mean(states): 0 gives stage 1 back, 1 the mean."""
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"merge: alpha is {alpha}; expected 0 (stage 1) to 1 (the mean)")
    total, like, count = _sum64(states)
    _check_pair(like, stage1, "stage 1")
    merged = {}
    for name, value in total.items():
        start = stage1[name].double()
        merged[name] = _cast(name, (1 - alpha) * start + alpha * (value / count), like[name])
    return merged


def tau_norm(states: Iterable[State], *, tau: float) -> dict[str, Tensor]:
    """One model with every linear classifier's rows divided by |w|^tau and its bias set to zero (RIDE's code)."""
    states = list(states)
    if len(states) != 1:
        raise UserError(f"tau_norm: expected one model, got {len(states)}")
    return importlib.import_module("lt.models.experts").tau_normalise(states[0], tau)


WHOLE = ("greedy_soup", "tau_norm")  # rules that need all tensors of a model at once; the others go number by number
MERGES: dict[str, Callable[..., dict[str, Tensor]]] = {
    "mean": mean,
    "published": published,
    "soup": soup,
    "greedy_soup": greedy_soup,
    "interpolate": interpolate,
    "tau_norm": tau_norm,
}


def merge(states: Iterable[State], rule: str, **options: object) -> dict[str, Tensor]:
    """One of `MERGES` by name."""
    return _rule(rule, options)(states, **options)


def _rule(name: str, options: Mapping[str, object]) -> Callable[..., dict[str, Tensor]]:
    combine = pick("merge rule", name, MERGES)
    parameters = {n: p for n, p in inspect.signature(combine).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for option in options:
        if option not in parameters:
            raise UserError(f"merge rule '{name}' has no option '{option}'{nearest(option, parameters)}")
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in options]
    if missing:
        raise UserError(f"merge rule '{name}' needs {', '.join(missing)}")
    return combine


def merge_files(
    paths: Sequence[str | Path],
    rule: str,
    out_path: str | Path,
    *,
    stage1: str | Path | None = None,
    **options: object,
) -> None:
    """Merge safetensors files into one; peak memory is about two models, however many there are.

    `greedy_soup` has to score whole models and holds about four.
    """
    from safetensors.torch import save_file

    combine = _rule(rule, options if stage1 is None else {**options, "stage1": stage1})
    paths = [Path(path) for path in paths]
    if not paths:
        raise UserError("merge: no models given")
    sources = [*paths, Path(stage1)] if stage1 is not None else paths
    if Path(out_path).resolve() in [path.resolve() for path in sources]:
        raise UserError(f"merge: {out_path} is one of the models; expected another file")
    shapes = _check_files(sources)
    if rule in WHOLE:
        merged = combine(_Files(paths), **options)
    else:
        merged = _by_pieces(combine, sources, shapes, options, last_is_start=stage1 is not None)
    save_file(merged, out_path, metadata={"format": "pt"})


def _by_pieces(
    combine: Callable[..., dict[str, Tensor]],
    sources: Sequence[Path],
    shapes: Mapping[str, list[int]],
    options: Mapping[str, object],
    *,
    last_is_start: bool,
) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_Reader(path)) for path in sources]
        for pieces in _groups(shapes):
            states = [{name: file.read(name, a, b) for name, a, b in pieces} for file in files]
            start = {"stage1": states.pop()} if last_is_start else {}
            for name, value in combine(states, **options, **start).items():
                if name not in merged:
                    merged[name] = torch.empty(shapes[name], dtype=value.dtype)
                at = next(a for n, a, _ in pieces if n == name)
                merged[name].view(-1)[at : at + len(value)] = value
    return merged


@torch.no_grad()
def reestimate_bn(model: nn.Module, batches: Iterable[object]) -> None:
    """Measure the running statistics of every BN layer anew: plain average over the batches.

    Only the BN layers leave eval mode (no dropout); momentum and modes are put back. A batch is the input or
    a tuple that starts with it, already on the model's device.
    """
    kind = nn.modules.batchnorm._BatchNorm
    layers = [m for m in model.modules() if isinstance(m, kind) and m.track_running_stats]
    if not layers:
        return
    modes = {module: module.training for module in model.modules()}
    momenta, seen = [layer.momentum for layer in layers], 0
    saved = [{name: value.clone() for name, value in layer.named_buffers()} for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
            layer.train()
        for batch in batches:
            model(batch[0] if isinstance(batch, (tuple, list)) else batch)
            seen += 1
    finally:
        for layer, momentum, buffers in zip(layers, momenta, saved, strict=True):
            layer.momentum = momentum
            if not seen:
                for name, value in buffers.items():
                    getattr(layer, name).copy_(value)
        for module, training in modes.items():
            module.training = training
    if not seen:
        raise UserError("merge: BN statistics cannot be measured on no batches")


class _Files(Sequence):
    """State dicts of some files, mapped when asked for and not kept."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with _opened(self.paths[index]) as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118


TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool}
TYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}


class _Reader:
    """Stretches of a safetensors file's entries. Read, not mapped: of N models mapped at once, all pages would stay.

    The file begins with the length of its header (8 bytes) and the header, JSON: type and place of every entry.
    """

    def __init__(self, path: Path) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115
        length = int.from_bytes(self.file.read(8), "little")
        self.header, self.start = json.loads(self.file.read(length)), 8 + length

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def read(self, name: str, start: int, stop: int) -> Tensor:
        entry = self.header[name]
        kind = TYPES[entry["dtype"]]
        buffer = torch.empty((stop - start) * kind.itemsize, dtype=torch.uint8)
        self.file.seek(self.start + entry["data_offsets"][0] + start * kind.itemsize)
        if self.file.readinto(buffer.numpy()) != len(buffer):
            raise UserError(f"merge: {self.file.name} ends within entry '{name}'")
        return buffer.view(kind)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[object]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            yield handle
    except FileNotFoundError:
        raise UserError(f"merge: {path} does not exist") from None
    except SafetensorError as error:
        raise UserError(f"merge: {path} is not a readable safetensors file ({error})") from None


def _check_files(paths: Sequence[Path]) -> dict[str, list[int]]:
    """Shape of each entry; refuses files that do not hold the same entries, from their headers alone."""
    first = None
    for path in paths:
        with _opened(path) as handle:
            shapes = {name: list(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
        first = shapes if first is None else first
        _check_names(first, shapes, str(path), str(paths[0]))
        for name, shape in shapes.items():
            _check_shape(name, first[name], shape, str(path), str(paths[0]))
    return first or {}


def _groups(shapes: Mapping[str, Sequence[int]]) -> Iterator[list[Piece]]:
    """Small entries together, large ones in stretches."""
    pieces: list[Piece] = []
    held = 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        for start in range(0, max(size, 1), GROUP_ELEMENTS):
            stop = min(start + GROUP_ELEMENTS, size)
            if pieces and held + stop - start > GROUP_ELEMENTS:
                yield pieces
                pieces, held = [], 0
            pieces.append((name, start, stop))
            held += stop - start
    if pieces:
        yield pieces


def _sum64(states: Iterable[State]) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Float64 sums, one empty tensor per entry with the first model's type and shape, number of models."""
    total: dict[str, Tensor] = {}
    like: dict[str, Tensor] = {}
    for count, state in enumerate(_checked(states), start=1):  # there is at least one
        if count == 1:
            like = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
            total = {name: value.to(torch.float64, copy=True) for name, value in state.items()}
        else:
            for name, value in total.items():
                _add(value, state[name])
    return total, like, count


def _add(total: Tensor, value: Tensor) -> None:
    """total += value. numpy adds float32 to float64 in half the time of torch; it knows no bfloat16 and no devices."""
    if value.dtype is torch.bfloat16 or value.device.type != "cpu":
        total.add_(value)
    else:
        np.add(total.numpy(), value.detach().numpy(), out=total.numpy())


def _checked(states: Iterable[State]) -> Iterator[State]:
    first: dict[str, Tensor] | None = None
    for position, state in enumerate(states):
        if first is None:
            first = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
        else:
            _check_pair(first, state, f"model {position}")
        yield state
    if first is None:
        raise UserError("merge: no models given")


def _check_pair(first: State, other: State, what: str) -> None:
    _check_names(first, other, what, "model 0")
    for name in other:
        _check_shape(name, first[name].shape, other[name].shape, what, "model 0")


def _check_names(first: Mapping, other: Mapping, what: str, reference: str) -> None:
    for name in first:
        if name not in other:
            raise UserError(f"merge: {what} lacks entry '{name}' of {reference}{_hint(name, other)}")
    for name in other:
        if name not in first:
            raise UserError(f"merge: {what} has entry '{name}' that {reference} lacks{_hint(name, first)}")


def _hint(name: str, known: Mapping) -> str:
    close = nearest(name, known)
    return close if "did you mean" in close else ""  # not the hundreds of names of a network


def _check_shape(name: str, first: Sequence[int], other: Sequence[int], what: str, reference: str) -> None:
    if tuple(first) != tuple(other):
        raise UserError(
            f"merge: entry '{name}' has shape {tuple(other)} in {what}, expected {tuple(first)} as in {reference}"
        )


def _finite(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, value in state.items():
        if not math.isfinite(value.sum()) and not bool(torch.isfinite(value).all()):  # the sum is ten times cheaper
            raise UserError(f"merge: entry '{name}' is not finite in at least one model")
    return state


def _cast(name: str, value: Tensor, like: Tensor) -> Tensor:
    _finite({name: value})
    if not like.dtype.is_floating_point:
        value = value.round_()
    return value.to(like.dtype)


def _score(score: Callable[[dict[str, Tensor]], float], state: dict[str, Tensor], what: str) -> float:
    found = float(score(state))
    if math.isnan(found):
        raise UserError(f"merge: the score of {what} is not a number")
    return found
