from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lt import stats, tables
from lt.comparisons import COLUMNS, comparisons
from lt.errors import UserError


def runs(seeds: int, methods: tuple[str, ...] = ("ce", "btm", "mislas")) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    return [
        {"dataset": d, "arch": "resnet8", "method": m, "seed": s, "metrics": {"top1": v + i, "gm": v}}
        for d in ("digits", "fashion")
        for i, m in enumerate(methods)
        for s, v in enumerate(random.normal(50, 1, seeds))
    ]


def test_one_row_a_pair_a_set_and_a_metric_with_one_holm_correction() -> None:
    rows = runs(6)
    got = comparisons(rows, [("btm", "mislas"), ("btm", "ce")], metrics=("top1", "gm"))
    assert list(got.columns) == list(COLUMNS) and len(got) == 8
    assert got["p_holm"].tolist() == stats.holm(got["p"].tolist())
    first = got.iloc[0]
    value = {m: {r["seed"]: r["metrics"]["top1"] for r in rows if r["method"] == m and r["dataset"] == "digits"}
             for m in ("btm", "mislas")}  # fmt: skip
    expected = stats.compare(value["btm"], value["mislas"])
    assert (first["difference"], first["p"], first["low"]) == (expected.difference, expected.p, expected.low)


def test_below_five_seeds_there_is_an_interval_and_no_p() -> None:
    got = comparisons(runs(4), [("btm", "ce")])
    assert got["p"].tolist() == [None, None] and got["p_holm"].tolist() == [None, None]
    assert all(low < d < high for low, d, high in zip(got["low"], got["difference"], got["high"], strict=True))
    text = tables.to_csv(got)
    assert text.splitlines()[0] == ",".join(COLUMNS) and text.splitlines()[1].endswith(",,")


def test_only_common_seeds_and_finished_runs_are_paired() -> None:
    rows = runs(6)
    rows[0] |= {"missing": "make it", "metrics": None}
    got = comparisons(rows, [("btm", "ce")])
    assert got["seeds"].tolist() == [5, 6]


def test_unknown_method_is_one_line() -> None:
    with pytest.raises(UserError, match="no runs of 'bmt'; did you mean 'btm'"):
        comparisons(runs(2), [("bmt", "ce")])
