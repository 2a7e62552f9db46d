"""Metrics from stored predictions: numpy only.

Accuracies, HM, GM, F1, ECE and MCE are in percent in what `evaluate` returns, fractions elsewhere.
What a data set cannot say (an empty group, a class nobody tested) is NaN in arrays and None in dicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from lt.errors import UserError, pick

GROUPS = ("many", "medium", "few")
NAMES = ("top1", "top5", "mean", "f1", *GROUPS, "hm", "gm", "zero_classes", "worst", "ece", "mce", "pdc")
COUNTS = ("zero_classes", "absent_classes", "tested")
BINS = 15
FLOOR = 0.001  # BTM: a class that is never right counts as 0.1 %
CHUNK_ELEMENTS = 1 << 21  # 8 MiB of float32 logits at a time


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one code base turns class accuracies into its numbers.

    zero: HM and GM of a class accuracy of 0: `floor 0.001` or `zero` (then HM = GM = 0).
    absent: a class without images is skipped (`skip`), makes its means NaN (`nan`) or counts as 0 (`zero`).
    empty: a group without classes is NaN (`blank`) or 0 (`zero`).
    group: unweighted mean of class accuracies (`class`) or accuracy over the group's images (`pooled`).
    floored_groups: groups are averaged after the floor (BTM's own log).
    decimals: class accuracies in percent are rounded to so many decimals before the group means, PDC too.
    """

    zero: str = "floor 0.001"
    absent: str = "skip"
    empty: str = "blank"
    group: str = "class"
    floored_groups: bool = False
    decimals: int | None = None

    def __post_init__(self) -> None:
        allowed = {
            "zero": ("floor 0.001", "zero"),
            "absent": ("skip", "nan", "zero"),
            "empty": ("blank", "zero"),
            "group": ("class", "pooled"),
        }
        for field, values in allowed.items():
            pick(f"metrics {field} rule", getattr(self, field), dict.fromkeys(values))


# Each paper's own evaluation code (cards, section 5).
FORMS: dict[str, Form] = {
    "plain": Form(),
    "mislas": Form(absent="nan"),
    "btm": Form(absent="nan", floored_groups=True),
    "bagmar": Form(empty="zero"),
    "ipdpp": Form(group="pooled", empty="zero"),
    "ride": Form(absent="nan"),
    "livt": Form(absent="zero", decimals=2),
}


@dataclass(frozen=True)
class Scores:
    """What one pass over the logits leaves: everything else follows from these [N] vectors."""

    pred: np.ndarray  # arg-max, the first of equals
    confidence: np.ndarray  # top probability, in the logits' own precision
    rank: np.ndarray  # place of the true label, 0 = best; equals rank by index, as arg-max does


def _labels(labels: np.ndarray, num_classes: int, what: str = "labels") -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{what}: expected a vector of integers, got shape {labels.shape} of {labels.dtype}")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise UserError(f"{what}: expected 0..{num_classes - 1}, got {int(labels.min())}..{int(labels.max())}")
    return labels.astype(np.int64, copy=False)


def scores(logits: np.ndarray, labels: np.ndarray, *, chunk_elements: int = CHUNK_ELEMENTS) -> Scores:
    """One chunked pass over logits [N,C] (array or memory map); half types are computed in float32."""
    logits = logits if isinstance(logits, np.ndarray) else np.asarray(logits)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise UserError(f"logits: expected [images, classes], got shape {logits.shape}")
    n, num_classes = logits.shape
    labels = _labels(labels, num_classes)
    if len(labels) != n:
        raise UserError(f"logits and labels: {n} rows against {len(labels)} labels")
    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    out = Scores(np.empty(n, np.int64), np.empty(n, dtype), np.empty(n, np.int64))
    step = max(1, chunk_elements // num_classes)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        _scores_chunk(np.asarray(logits[rows], dtype), labels[rows], out, rows)
    return out


def _scores_chunk(z: np.ndarray, labels: np.ndarray, out: Scores, rows: slice) -> None:
    pred = z.argmax(1)
    top = np.take_along_axis(z, pred[:, None], 1)
    if not np.isfinite(top).all():
        bad = rows.start + int(np.flatnonzero(~np.isfinite(top[:, 0]))[0])
        raise UserError(f"logits: row {bad} has no finite maximum (NaN or infinity)")
    own = np.take_along_axis(z, labels[:, None], 1)
    rank = (z > own).sum(1)
    tied = np.flatnonzero((z == own).sum(1) > 1)
    if len(tied):
        earlier = np.arange(z.shape[1]) < labels[tied, None]
        rank[tied] += ((z[tied] == own[tied]) & earlier).sum(1)
    out.pred[rows], out.rank[rows] = pred, rank
    with np.errstate(over="ignore"):  # a difference beyond the range is a probability of 0
        out.confidence[rows] = 1 / np.exp(z - top).sum(1)


def confusion_cells(pred: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Columns of confusion.csv: the cells that are not zero; with 8,142 classes the whole table has 66 million."""
    labels, pred = _labels(labels, num_classes), _labels(pred, num_classes, "predictions")
    cells, images = np.unique(labels * num_classes + pred, return_counts=True)
    return {"target": cells // num_classes, "predicted": cells % num_classes, "images": images}


def confusion(pred: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[true, predicted] counts (LiVT's own code has [predicted, true])."""
    target, predicted, images = confusion_cells(pred, labels, num_classes).values()
    table = np.zeros((num_classes, num_classes), np.int64)
    table[target, predicted] = images
    return table


def class_hits(pred: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(correct, tested) per class, int64 [C]."""
    labels = _labels(labels, num_classes)
    pred = np.asarray(pred)
    tested = np.bincount(labels, minlength=num_classes)
    return np.bincount(labels[pred == labels], minlength=num_classes), tested


def class_accuracy(
    pred: np.ndarray, labels: np.ndarray, num_classes: int, *, weights: np.ndarray | None = None
) -> np.ndarray:
    """a_c = correct_c / tested_c, float64 [C]; NaN for an untested class. `weights`: one per image."""
    if weights is None:
        correct, tested = class_hits(pred, labels, num_classes)
    else:
        labels = _labels(labels, num_classes)
        hit = np.asarray(pred) == labels
        tested = np.bincount(labels, weights, minlength=num_classes)
        correct = np.bincount(labels[hit], np.asarray(weights, np.float64)[hit], minlength=num_classes)
    return _ratio(correct, tested)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)


def _handle_absent(accuracy: np.ndarray, rule: str) -> np.ndarray:
    accuracy = np.asarray(accuracy, np.float64)
    if rule == "skip":
        return accuracy[~np.isnan(accuracy)]
    return np.nan_to_num(accuracy, nan=0.0) if rule == "zero" else accuracy


def harmonic_mean(accuracy: np.ndarray, *, zero: str = "floor 0.001", absent: str = "nan") -> float:
    """C / sum_c 1/a_c, computed from logarithms; BTM replaces exact zeros by 0.001."""
    logs = _log_accuracy(accuracy, zero, absent)
    if not len(logs) or np.isnan(logs).any():
        return math.nan
    low = logs.min()
    if np.isneginf(low):
        return 0.0
    return float(np.exp(low + math.log(len(logs)) - np.log(np.exp(low - logs).sum())))


def geometric_mean(accuracy: np.ndarray, *, zero: str = "floor 0.001", absent: str = "nan") -> float:
    """exp(mean_c ln a_c)."""
    logs = _log_accuracy(accuracy, zero, absent)
    return float(np.exp(logs.mean())) if len(logs) else math.nan


def _log_accuracy(accuracy: np.ndarray, zero: str, absent: str) -> np.ndarray:
    Form(zero=zero, absent=absent)
    accuracy = _handle_absent(accuracy, absent)
    if zero == "floor 0.001":
        accuracy = np.where(accuracy == 0, FLOOR, accuracy)
    with np.errstate(divide="ignore"):
        return np.log(accuracy)


def shots_by_count(class_counts: np.ndarray, *, many: int = 100, few: int = 20) -> np.ndarray:
    """0 many (n > many), 1 medium, 2 few (n < few), as int8 [C]."""
    counts = np.asarray(class_counts)
    return np.where(counts > many, 0, np.where(counts < few, 2, 1)).astype(np.int8)


def shot_index(shots: np.ndarray, num_classes: int) -> np.ndarray:
    """Group of every class as 0, 1, 2, given so or as `many`, `medium`, `few`."""
    shots = np.asarray(shots)
    if shots.shape != (num_classes,):
        raise UserError(f"shots: expected one group for each of {num_classes} classes, got {shots.shape}")
    if shots.dtype.kind in "UO":
        for name in set(shots.tolist()):
            pick("shot group", name, dict.fromkeys(GROUPS))
        return np.array([GROUPS.index(s) for s in shots.tolist()], np.int64)
    return _labels(shots, len(GROUPS), "shots")


def group_accuracy(
    correct: np.ndarray, tested: np.ndarray, shots: np.ndarray, *, form: Form | str = "plain"
) -> dict[str, float]:
    """many, medium, few as fractions; see Form for the rules."""
    return {name: value / 100 for name, value in _group_percent(correct, tested, shots, _form(form)).items()}


def _group_percent(correct: np.ndarray, tested: np.ndarray, shots: np.ndarray, form: Form) -> dict[str, float]:
    """In percent, since a rounded mean must not take the way over fractions."""
    shots = shot_index(shots, len(np.asarray(tested)))
    accuracy, unit = _ratio(correct, tested), 100
    if form.decimals is not None:
        accuracy, unit = np.round(100 * accuracy, form.decimals), 1
    if form.floored_groups:
        accuracy = np.where(accuracy == 0, FLOOR, accuracy)
    result = {}
    for index, name in enumerate(GROUPS):
        member = shots == index
        if form.group == "pooled":
            total = np.sum(np.asarray(tested)[member])
            value = 100 * np.sum(np.asarray(correct)[member]) / total if total else math.nan
            blank = not total
        else:
            chosen = _handle_absent(accuracy[member], form.absent)
            value = unit * float(chosen.mean()) if len(chosen) else math.nan
            blank = not len(chosen)
        result[name] = 0.0 if blank and form.empty == "zero" else float(value)
    return result


def macro_f1(pred: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Mean of 2 TP / (predicted + tested) over classes tested or predicted (scikit-learn's rule)."""
    correct, tested = class_hits(pred, labels, num_classes)
    predicted = np.bincount(_labels(pred, num_classes, "predictions"), minlength=num_classes)
    seen = (tested + predicted) > 0
    return float((2 * correct[seen] / (tested + predicted)[seen]).mean()) if seen.any() else math.nan


def calibration(confidence: np.ndarray, hit: np.ndarray, *, bins: int = BINS) -> dict[str, np.ndarray | float]:
    """Equal bins (lo, hi] over the top probability; a confidence of exactly 0 is in no bin.

    ece = sum_b (count_b / N) |acc_b - conf_b|; mce = max_b of the gap, 0 for empty bins.
    """
    confidence = np.asarray(confidence)
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges, right=True)
    kept = (index >= 1) & (index <= bins)
    index, hit = index[kept] - 1, np.asarray(hit, np.float64)[kept]
    count = np.bincount(index, minlength=bins)
    accuracy = np.bincount(index, hit, minlength=bins) / np.maximum(count, 1)
    mean = np.bincount(index, confidence[kept].astype(np.float64), minlength=bins) / np.maximum(count, 1)
    gap = np.abs(accuracy - mean)
    n = count.sum()
    return {
        "edges": edges,
        "count": count,
        "accuracy": accuracy,
        "confidence": mean,
        "ece": float((gap * count).sum() / n) if n else math.nan,
        "mce": float(gap.max()) if n else math.nan,
    }


def pdc(pred: np.ndarray, labels: np.ndarray, class_counts: np.ndarray) -> float:
    """KL(test labels || predicted labels) / KL(test labels || training prior), with LiVT's 1e-6 in the logs.

    0: predictions follow the test labels; 1: as skewed as the training set; NaN if that is not skewed.
    """
    num_classes = len(np.asarray(class_counts))
    test, train = _histogram(labels, num_classes), np.asarray(class_counts, np.float64)
    if not len(np.asarray(labels)) or train.sum() <= 0:
        return math.nan
    own = np.sum(test * np.log(test + 1e-6))
    away = own - np.sum(test * np.log(_histogram(pred, num_classes) + 1e-6))
    prior = own - np.sum(test * np.log(train / train.sum() + 1e-6))
    return float(away / prior) if abs(prior) > 1e-9 else math.nan


def _histogram(labels: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.bincount(_labels(labels, num_classes), minlength=num_classes)
    return counts / max(counts.sum(), 1)


def _form(form: Form | str) -> Form:
    return pick("metrics form", form, FORMS) if isinstance(form, str) else form


def evaluate(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    class_counts: np.ndarray,
    shots: np.ndarray | None = None,
    form: Form | str = "plain",
    zero: str | None = None,
    bins: int = BINS,
) -> dict[str, float | int | None]:
    """Every metric of one run, from logits [N,C] and labels [N]; `shots` default to >100, 20..100, <20."""
    given = scores(logits, labels)
    if np.shape(logits)[1] != len(np.asarray(class_counts)):
        raise UserError(f"logits: {np.shape(logits)[1]} columns against {len(np.asarray(class_counts))} class counts")
    result = evaluate_predictions(given.pred, labels, class_counts=class_counts, shots=shots, form=form, zero=zero)
    counts = calibration(given.confidence, given.rank == 0, bins=bins)
    result["top5"] = _percent(np.mean(given.rank < 5) if len(given.rank) else math.nan)
    result["ece"], result["mce"] = _percent(counts["ece"]), _percent(counts["mce"])
    return {name: result[name] for name in (*NAMES, "absent_classes", "tested")}


def evaluate_predictions(
    pred: np.ndarray,
    labels: np.ndarray,
    *,
    class_counts: np.ndarray,
    shots: np.ndarray | None = None,
    form: Form | str = "plain",
    zero: str | None = None,
) -> dict[str, float | int | None]:
    """The metrics that need predicted labels only."""
    form = _form(form) if zero is None else replace(_form(form), zero=zero)
    class_counts = np.asarray(class_counts)
    num_classes = len(class_counts)
    correct, tested = class_hits(_labels(pred, num_classes, "predictions"), labels, num_classes)
    accuracy = _ratio(correct, tested)
    groups = _group_percent(correct, tested, shots_by_count(class_counts) if shots is None else shots, form)
    present = accuracy[tested > 0]
    mean = _handle_absent(accuracy, form.absent)
    skew = pdc(pred, labels, class_counts)
    total = tested.sum()
    return {
        "top1": _percent(correct.sum() / total if total else math.nan),
        "mean": _percent(mean.mean() if len(mean) else math.nan),
        "f1": _percent(macro_f1(pred, labels, num_classes)),
        **{name: _number(value) for name, value in groups.items()},
        "hm": _percent(harmonic_mean(accuracy, zero=form.zero, absent=form.absent)),
        "gm": _percent(geometric_mean(accuracy, zero=form.zero, absent=form.absent)),
        "zero_classes": int(np.sum(present == 0)),
        "worst": _percent(present.min() if len(present) else math.nan),
        "pdc": _number(skew if form.decimals is None else round(skew, form.decimals)),
        "absent_classes": int(np.sum(tested == 0)),
        "tested": int(total),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _percent(value: float) -> float | None:
    return _number(100 * float(value))


def per_class(
    pred: np.ndarray, labels: np.ndarray, *, class_counts: np.ndarray, shots: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Columns of per_class.csv, one entry a class; rates are fractions, NaN where undefined."""
    class_counts = np.asarray(class_counts)
    num_classes = len(class_counts)
    shots = shots_by_count(class_counts) if shots is None else shot_index(shots, num_classes)
    correct, tested = class_hits(pred, labels, num_classes)
    predicted = np.bincount(_labels(pred, num_classes, "predictions"), minlength=num_classes)
    return {
        "class": np.arange(num_classes),
        "train_count": class_counts.astype(np.int64),
        "shot": np.array(GROUPS)[shots],
        "tested": tested,
        "correct": correct,
        "predicted": predicted,
        "accuracy": _ratio(correct, tested),
        "precision": _ratio(correct, predicted),
        "f1": _ratio(2 * correct, tested + predicted),
    }


def to_csv(table: dict[str, np.ndarray]) -> str:
    """Columns as text: rates with six decimals, blank where undefined."""

    def cell(value: object) -> str:
        if isinstance(value, float | np.floating):
            return "" if math.isnan(value) else f"{value:.6f}"
        return str(value)

    rows = [",".join(table)]
    rows += [",".join(cell(v) for v in row) for row in zip(*table.values(), strict=True)]
    return "\n".join(rows) + "\n"
