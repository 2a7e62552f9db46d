"""Steps on stored predictions and features: logit adjustment, prediction normalisation, tau-norm, class means.

numpy only. Predictions are arg-max over columns; a score's scale within a row does not matter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from lt.errors import UserError, nearest, pick

Stored = Mapping[str, np.ndarray]
Found = tuple[np.ndarray, dict[str, object]]

TAUS = tuple(round(0.1 * i, 1) for i in range(21))
HOLDS32, HOLDS64 = 69.0, 700.0  # |log m^tau| that float32 and float64 carry with room to spare
ROWS = 4096  # rows handled at once: temporary arrays stay small whatever the size of the split


def _logits(logits: object) -> np.ndarray:
    logits = np.asarray(logits)
    if logits.ndim != 2 or 0 in logits.shape:
        raise UserError(f"posthoc: logits must be [images, classes] and not empty, got shape {logits.shape}")
    if logits.dtype not in (np.float32, np.float64):
        logits = logits.astype(np.float32 if logits.dtype == np.float16 else np.float64)
    if not np.isfinite(logits).all():
        raise UserError("posthoc: logits hold values that are not finite")
    return logits


def _tau(tau: float) -> float:
    if not np.isfinite(tau) or tau < 0:
        raise UserError(f"posthoc: tau must be a number of at least 0, got {tau!r}")
    return float(tau)


def logit_adjust(logits: object, class_counts: object, tau: float = 1.0) -> np.ndarray:
    """z - tau log pi (arXiv 2007.07314). A class without training images is never predicted, except at tau 0."""
    logits, counts = _logits(logits), np.asarray(class_counts, dtype=np.float64)
    if counts.shape != (logits.shape[1],) or (counts < 0).any() or counts.sum() == 0:
        raise UserError(f"posthoc: expected {logits.shape[1]} class counts that are not all zero")
    if _tau(tau) == 0:
        return logits.copy()
    with np.errstate(divide="ignore"):
        prior = np.log(counts / counts.sum())
    shift = np.where(counts > 0, tau * prior, np.inf)
    return (logits - shift).astype(logits.dtype)


def softmax(logits: object) -> np.ndarray:
    """Row-wise, in the logits' own precision."""
    logits = _logits(logits)
    out = np.empty_like(logits)
    for rows in _chunks(len(logits)):
        part = logits[rows] - logits[rows].max(axis=1, keepdims=True)
        np.exp(part, out=part)
        np.divide(part, part.sum(axis=1, keepdims=True), out=out[rows])
    return out


def column_sums(logits: object) -> np.ndarray:
    """m_j = sum_i softmax(z_i)_j in float64: the statistics of prediction normalisation."""
    return _column_sums(softmax(logits))


def _column_sums(probabilities: np.ndarray) -> np.ndarray:
    total = np.zeros(probabilities.shape[1])
    for rows in _chunks(len(probabilities)):
        total += probabilities[rows].sum(axis=0, dtype=np.float64)
    return total


def _chunks(length: int) -> Iterator[slice]:
    for start in range(0, length, ROWS):
        yield slice(start, min(start + ROWS, length))


def _normaliser(stats: np.ndarray, tau: float, dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """p -> p / m^tau, 0 in a column of zeros, in a precision that holds it.

    Where m^tau leaves float64 (a class that hardly any image names, at a large tau) a row's scores are divided by
    the row's largest: what they rank stays.
    """
    named = stats > 0
    logs = tau * np.log(np.where(named, stats, 1.0))
    if np.abs(logs).max() < HOLDS64:
        powers = np.where(named, np.where(named, stats, 1.0) ** tau, np.inf)
        kind = dtype if np.abs(logs).max() < HOLDS32 else np.dtype(np.float64)
        powers = powers.astype(kind)
        return lambda p: np.divide(p, powers, dtype=kind)

    def in_logarithms(p: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            scores = np.where(named, np.log(p, dtype=np.float64) - logs, -np.inf)
        return np.exp(scores - scores.max(axis=1, keepdims=True))

    return in_logarithms


def _stats(stats: object, classes: int) -> np.ndarray:
    stats = np.asarray(stats, dtype=np.float64)
    if stats.shape != (classes,) or not np.isfinite(stats).all() or (stats < 0).any():
        raise UserError(f"posthoc: column sums must be {classes} numbers of at least 0")
    if not stats.any():
        raise UserError("posthoc: column sums are all zero")
    return stats


def prediction_normalisation(logits: object, tau: float = 1.0, stats: object = None) -> np.ndarray:
    """PN: s_ij = p_ij / m_j^tau, m = column sums of the softmax, 0 where m_j is 0.

    m comes from these logits themselves (the published, transductive way: the whole split at once, assumed
    balanced) or from `stats`, the `column_sums` of another split.
    """
    p = softmax(logits)
    m = _column_sums(p) if stats is None else _stats(stats, p.shape[1])
    return _normaliser(m, _tau(tau), p.dtype)(p)


def pn_sweep(logits: object, labels: object, taus: Sequence[float], stats: object = None) -> dict[str, np.ndarray]:
    """Predictions [T,N] and top-1 [T] for every tau; softmax and column sums are computed once."""
    labels = np.asarray(labels)
    p = softmax(logits)
    if labels.shape != (len(p),):
        raise UserError(f"posthoc: {labels.shape} labels against {len(p)} rows of logits")
    m = _column_sums(p) if stats is None else _stats(stats, p.shape[1])
    taus = np.array([_tau(t) for t in taus])
    predictions = np.empty((len(taus), len(p)), dtype=np.int64)
    prepared = [_normaliser(m, tau, p.dtype) for tau in taus]
    for rows in _chunks(len(p)):
        part = p[rows]
        for t, normalise in enumerate(prepared):
            predictions[t, rows] = normalise(part).argmax(axis=1)
    return {"taus": taus, "predictions": predictions, "top1": (predictions == labels).mean(axis=1)}


def best_tau(sweep: dict[str, np.ndarray]) -> float:
    """The tau of highest top-1, the smallest of equals."""
    return float(sweep["taus"][int(np.argmax(sweep["top1"]))])


def tau_norm_weights(weights: object, tau: float) -> np.ndarray:
    """w_c / |w_c|^tau a row; a row of zeros stays zero."""
    weights = np.asarray(weights)
    norms = np.linalg.norm(weights.astype(np.float64), axis=1, keepdims=True)
    return (weights / np.where(norms > 0, norms, 1.0) ** _tau(tau)).astype(weights.dtype)


def tau_norm(features: object, weights: object, tau: float = 1.0) -> np.ndarray:
    """Logits of the tau-normalised classifier; the bias is dropped (arXiv 1910.09217)."""
    return np.asarray(features) @ tau_norm_weights(weights, tau).T


NCM_FEATURES = ("un", "l2n", "cl2n")
NCM_DISTANCES = ("l2", "cos")


def class_means(features: object, labels: object, num_classes: int, *, kind: str = "cl2n") -> dict[str, np.ndarray]:
    """Nearest-class-mean classifier: `means` [C,d] of raw (un), normalised (l2n) or centred and normalised (cl2n)
    training features, and their global `centre`. A class without images has a mean of nan and is never predicted."""
    if kind not in NCM_FEATURES:
        raise UserError(f"ncm: features must be one of {', '.join(NCM_FEATURES)}, got '{kind}'")
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or labels.shape != (len(features),) or len(features) == 0:
        raise UserError(f"ncm: features {features.shape} against labels {labels.shape}")
    centre = features.mean(axis=0)
    moved = _ncm_features(features, centre, kind)
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, labels, moved)
    counts = np.bincount(labels, minlength=num_classes)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
    return {"means": means.astype(features.dtype), "centre": centre}


def _ncm_features(features: np.ndarray, centre: np.ndarray, kind: str) -> np.ndarray:
    if kind == "un":
        return features
    moved = features - centre if kind == "cl2n" else features
    norms = np.linalg.norm(moved, axis=1, keepdims=True)
    return moved / np.where(norms > 0, norms, 1.0)


def ncm(features: object, classifier: dict[str, np.ndarray], *, kind: str = "cl2n", distance: str = "l2") -> np.ndarray:
    """Logits -|q - c|^2 or q.c / d of queries that went through the same transform as the training features."""
    if distance not in NCM_DISTANCES:
        raise UserError(f"ncm: distance must be one of {', '.join(NCM_DISTANCES)}, got '{distance}'")
    if kind not in NCM_FEATURES:
        raise UserError(f"ncm: features must be one of {', '.join(NCM_FEATURES)}, got '{kind}'")
    q = _ncm_features(np.asarray(features), classifier["centre"], kind)
    means = classifier["means"]
    known = np.isfinite(means).all(axis=1)
    c = np.where(known[:, None], means, 0.0).astype(np.float64)
    if distance == "cos":
        logits = q @ c.T / q.shape[1]
    else:
        # float64 and about the middle of the means: |q|^2 + |c|^2 - 2 q.c cancels far from the origin
        middle = c[known].mean(axis=0) if known.any() else 0.0
        q, c = q - middle, c - middle
        logits = 2 * (q @ c.T) - (q**2).sum(axis=1, keepdims=True) - (c**2).sum(axis=1)
    logits = logits.astype(np.float64 if means.dtype == np.float64 else np.float32)
    return np.where(known, logits, np.finfo(logits.dtype).min)


# ---- steps of the evaluate stage: (stored predictions, class counts, predictions of a tuning split, options) ------


def _logit_adjust_step(
    predictions: Stored, class_counts: np.ndarray, labels: Stored | None, *, tau: float = 1.0
) -> Found:
    return logit_adjust(predictions["logits"], class_counts, tau), {"tau": float(tau)}


def _pn_step(
    predictions: Stored,
    class_counts: np.ndarray,
    labels: Stored | None,
    *,
    tau: float | str = 1.0,
    stats: Literal["test", "val", "train"] = "test",
    tau_selected_on: Literal["val", "train", "test"] = "val",
    taus: Sequence[float] = TAUS,
) -> Found:
    """PN. `tau: tuned` takes the best of `taus` on the tuning split, or openly on the test split.

    `stats`: whose column sums divide, `test` being the evaluated split itself (published); else the tuning split.
    """
    if stats not in ("test", "val", "train"):
        raise UserError(f"posthoc pn: stats must be one of test, val, train, got '{stats}'")
    if tau_selected_on not in ("val", "train", "test"):
        raise UserError(f"posthoc pn: tau_selected_on must be one of val, train, test, got '{tau_selected_on}'")
    if isinstance(tau, str) and tau != "tuned":
        raise UserError(f"posthoc pn: tau must be a number or tuned, got '{tau}'")
    tuned = tau == "tuned"
    if labels is None and (stats != "test" or (tuned and tau_selected_on != "test")):
        raise UserError("posthoc pn: this setting needs predictions of a tuning split (evaluate.tuning: val or train)")
    sums = None if stats == "test" else column_sums(labels["logits"])
    found: dict[str, object] = {"pn_stats": stats}
    if tuned:
        on = predictions if tau_selected_on == "test" else labels
        sweep = pn_sweep(on["logits"], on["labels"], taus, stats=sums)
        tau, found["tau_selected_on"] = best_tau(sweep), tau_selected_on
        found["sweep"] = {"taus": sweep["taus"].tolist(), "top1": (100 * sweep["top1"]).tolist()}
    return prediction_normalisation(predictions["logits"], tau, stats=sums), {"tau": float(tau), **found}


def _tau_norm_step(
    predictions: Stored,
    class_counts: np.ndarray,
    labels: Stored | None,
    *,
    tau: float | str = 1.0,
    tau_selected_on: Literal["val", "train", "test"] = "val",
    taus: Sequence[float] = TAUS,
) -> Found:
    """`tau: tuned` takes the best of `taus` on the tuning split, or openly on the test split."""
    if tau_selected_on not in ("val", "train", "test"):
        raise UserError(f"posthoc tau_norm: tau_selected_on must be one of val, train, test, got '{tau_selected_on}'")
    if isinstance(tau, str) and tau != "tuned":
        raise UserError(f"posthoc tau_norm: tau must be a number or tuned, got '{tau}'")
    features, weights = (_stored(predictions, key, "tau_norm") for key in ("features", "weights"))
    found: dict[str, object] = {}
    if tau == "tuned":
        on = predictions if tau_selected_on == "test" else labels
        if on is None:
            raise UserError("posthoc tau_norm: tuned needs predictions of a tuning split (evaluate.tuning: val, train)")
        other = _stored(on, "features", "tau_norm")
        top1 = np.array([(tau_norm(other, weights, t).argmax(axis=1) == on["labels"]).mean() for t in taus])
        tau, found["tau_selected_on"] = best_tau({"taus": np.asarray(taus), "top1": top1}), tau_selected_on
        found["sweep"] = {"taus": [float(t) for t in taus], "top1": (100 * top1).tolist()}
    return tau_norm(features, weights, tau), {"tau": float(tau), **found}


def _ncm_step(
    predictions: Stored,
    class_counts: np.ndarray,
    labels: Stored | None,
    *,
    kind: Literal["un", "l2n", "cl2n"] = "cl2n",
    distance: Literal["l2", "cos"] = "l2",
) -> Found:
    if labels is None:
        raise UserError("posthoc ncm: class means need predictions of the training split (evaluate.tuning: train)")
    features = _stored(labels, "features", "ncm")
    classifier = class_means(features, labels["labels"], len(class_counts), kind=kind)
    return ncm(_stored(predictions, "features", "ncm"), classifier, kind=kind, distance=distance), {}


def _stored(predictions: Stored, key: str, step: str) -> np.ndarray:
    if key not in predictions:
        raise UserError(f"posthoc {step}: the predictions hold no {key}; name it in predict.outputs")
    return predictions[key]


POSTHOC: dict[str, Callable[..., Found]] = {
    "logit_adjust": _logit_adjust_step,
    "pn": _pn_step,
    "tau_norm": _tau_norm_step,
    "ncm": _ncm_step,
}


def apply(
    choice: str | Mapping[str, object],
    stored: Stored,
    *,
    class_counts: np.ndarray,
    tuning: Stored | None = None,
) -> Found:
    """Scores of the named step, and what was used or found (tau, whose statistics) for metrics.json."""
    options = {} if isinstance(choice, str) else {k: v for k, v in choice.items() if k != "name"}
    name = choice if isinstance(choice, str) else choice["name"]
    step = pick("posthoc step", name, POSTHOC)
    known = [k for k, p in inspect.signature(step).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UserError(f"posthoc {name} has no option '{option}'{nearest(option, known)}")
    return step(stored, np.asarray(class_counts), tuning, **options)
