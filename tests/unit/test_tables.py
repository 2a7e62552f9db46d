from __future__ import annotations

import csv
import io
import itertools
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from debian import program

from lt import published, stats, tables, tables_text
from lt.config import load as load_params
from lt.errors import UserError
from lt.published import Entry
from lt.schema import Run
from lt.stages.recipe import of_row

COMMON = {"source": "A paper (arXiv 0000.00000), Table 1", "split": "test", "metric": "top1"}
ENTRIES = [
    Entry(dataset="cifar100_lt_if100", method="mislas", arch="resnet32", value=47.0, epochs=200, **COMMON),
    Entry(dataset="cifar100_lt_if100", method="ce", arch="resnet32", value=38.4, imb_factor=100, **COMMON),
    Entry(
        dataset="cifar100_lt_if100", method="bagmar", arch="resnet32", value=52.1, selection="best_on_test",
        **COMMON,
    ),
]  # fmt: skip


def run(method: str = "ce", seed: int = 0, top1: float = 38.0, **more: Any) -> dict[str, Any]:
    row = {
        "dataset": "cifar100_lt_if100", "imb_factor": 100, "method": method, "arch": "resnet32",
        "resolution": 32, "epochs": 200, "seed": seed, "tau": None, "experts": None, "gmacs": 0.0696,
        "wall_s": 10.0 + seed, "peak_mb": 100.0 * seed, "holdout": False, "selected_on": "last",
        "undertrained": False, "missing": None,
        "metrics": {"top1": top1, "few": 10.0 + seed, "hm": None, "zero_classes": seed, "ece": 5.0 - seed},
    }  # fmt: skip
    return row | more


def as_dicts(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    frame = tables.tabulate(rows, ENTRIES, "test")
    return list(csv.DictReader(io.StringIO(tables.to_csv(frame))))


def verdict(*rows: dict[str, Any]) -> str:
    return as_dicts(list(rows))[-1]["verdict"]


def test_one_row_a_seed_and_one_mean_row_with_its_interval() -> None:
    values = [38.0, 39.5, 37.25]
    got = as_dicts([run(seed=s, top1=v) for s, v in enumerate(values)])
    assert [r["seed"] for r in got] == ["0", "1", "2", "mean"]
    mean, expected = got[-1], stats.summary(values)
    assert mean["top1"] == f"{expected.mean:.2f}" == "38.25"
    assert mean["top1_ci95"] == f"{expected.high - expected.mean:.2f}"
    assert mean["top1_se"] == f"{expected.se:.2f}" and got[0]["top1_se"] == ""
    assert mean["difference"] == "-0.15" and mean["verdict"] == "within" and mean["published"] == "38.40"
    assert mean["source"] == COMMON["source"] and mean["seeds"] == "3"
    assert (mean["wall_s"], mean["peak_mb"], mean["hm"]) == ("11.0", "200.0", "")
    assert got[0]["top1"] == "38.00" and got[0]["top1_ci95"] == "" and got[1]["zero_classes"] == "1"


def test_columns() -> None:
    head = list(as_dicts([run()])[0])
    wanted = "set imb_factor method arch resolution epochs tau experts gmacs seed top1 few wall_s peak_mb"
    wanted += " published source difference verdict"
    assert set(wanted.split()) <= set(head)
    assert head[-4:] == ["published", "source", "difference", "verdict"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([39.4], "within"),
        ([39.41], "above"),
        ([37.39], "below"),
        ([39.5, 39.5], "above"),
        ([41.4, 37.4, 39.4, 40.0], "within"),  # d = 1.15, two standard errors = 1.67
        ([40.3, 40.4, 40.5, 40.4], "above"),
    ],
)
def test_verdict_is_by_one_point_or_two_standard_errors(values: list[float], expected: str) -> None:
    assert verdict(*[run(seed=s, top1=v) for s, v in enumerate(values)]) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"method": "btm"}, "not published"),
        ({"method": "btm", "undertrained": True}, "not published (undertrained)"),
        ({"dataset": "cifar100_lt_if100_holdout"}, "not comparable: holdout"),
        ({"holdout": True}, "not comparable: holdout"),
        ({"undertrained": True}, "not comparable: undertrained"),
        ({"not_comparable": "smoke"}, "not comparable: smoke"),
        ({"arch": "resnet8"}, "not comparable: resnet8, published resnet32"),
        ({"method": "mislas", "epochs": 30}, "not comparable: 30 epochs, published 200 epochs"),
        ({"selected_on": "test"}, "not comparable: epoch chosen on the test set"),
        ({"method": "bagmar"}, "not comparable: epoch last, published best on test"),
        ({"method": "bagmar", "selected_on": "test", "top1": 52.0}, "within"),
        ({"imb_factor": 50}, "not published"),
        ({"external_data": "ImageNet"}, "not comparable: external data: ImageNet, published none"),
        ({"metrics": {"few": 1.0}}, "not comparable: no top1"),
    ],
)
def test_only_like_is_compared_with_like(change: dict[str, Any], expected: str) -> None:
    got = as_dicts([run(**{"top1": 38.4} | change)])
    assert [r["verdict"] for r in got] == [expected, expected]
    if expected.startswith("not"):
        assert got[0]["difference"] == ""


def test_the_first_comparable_entry_is_shown() -> None:
    other = Entry(dataset="digits", method="ce", arch="resnet50", value=90.0, **COMMON)
    same = Entry(dataset="digits", method="ce", arch="resnet8", value=80.0, **COMMON)
    later = Entry(dataset="digits", method="ce", arch="resnet8", value=70.0, **COMMON)
    row = run(dataset="digits", imb_factor=20, arch="resnet8", top1=80.5)
    assert tables.judge(row, 80.5, math.nan, [other, same, later], "top1")[0] == 80.0
    assert tables.judge(row, 80.5, math.nan, [other], "top1")[3] == "not comparable: resnet8, published resnet50"


def test_an_entry_that_states_its_epochs_stands_before_one_that_does_not() -> None:
    silent = Entry(dataset="digits", method="ce", arch="resnet8", value=80.0, **COMMON)
    same, other = (Entry(dataset="digits", method="ce", arch="resnet8", value=v, epochs=e, **COMMON)
                   for v, e in ((70.0, 200), (60.0, 90)))  # fmt: skip
    row = run(dataset="digits", imb_factor=20, arch="resnet8")
    assert tables.judge(row, 70.5, math.nan, [silent, other, same], "top1")[0] == 70.0
    assert tables.judge(row, 70.5, math.nan, [silent, other], "top1")[0] == 80.0


@pytest.mark.parametrize(
    ("text", "node", "wanted"),
    [
        ("imagenet_lt/mislas_ce/resnet50/seed0", "stage1", 45.7),
        ("imagenet_lt/ce/resnet50/seed0", "train", 44.6),
        ("imagenet_lt/mislas/resnet101/seed0", "stage1", 47.7),
        ("cifar10_lt_if100/mislas/resnet32/seed0", "stage1", 72.8),
        ("cifar10_lt_if100/mislas/resnet32/seed0", "stage2", 82.1),
        ("imagenet_lt/crt_plain/resnet50/seed0", "stage1", None),  # its `published: crt` is the second stage's
    ],
)
def test_a_row_finds_its_own_published_number(text: str, node: str, wanted: float | None) -> None:
    config, run = load_params(Path(__file__).parents[2] / "params.yaml"), Run.parse(text)
    row = of_row(config, run, node, node == config.final_stage(run.method))
    row.pop("manifest")
    assert tables.judge(row, 50.0, math.nan, published.load().results, "top1")[0] == wanted


def test_groups_that_a_paper_cuts_its_own_way_are_not_compared() -> None:
    entries = published.load().results
    row = {"dataset": "cifar10_lt_if100", "imb_factor": 100, "method": "bns_lp", "arch": "resnet18", "seed": 0}
    assert tables.judge(row, 69.4, math.nan, entries, "many")[3] == "not comparable: groups as ipdpp cuts them"
    assert tables.judge(row, 68.2, math.nan, entries, "top1")[3] == "within"


def test_a_number_of_another_split_is_not_compared() -> None:
    entry = Entry(dataset="digits", method="ce", arch="resnet8", value=90.0, **COMMON | {"split": "val"})
    row = run(dataset="digits", imb_factor=20, arch="resnet8")
    assert tables.judge(row, 90.0, math.nan, [entry], "top1")[3] == "not comparable: published on the val split"


@pytest.mark.parametrize(
    ("text", "node", "wanted"),
    [
        ("digits/btm/resnet8/seed0", "stage2", None),
        ("imagenet_lt/livt/vit_base/seed0", "finetune", None),
        ("places_lt/btm/resnet152_places/seed0", "stage2", "ImageNet"),
        ("cifar10_lt_if100/livt/vit_base/seed0", "finetune", "ImageNet-LT"),
        ("imagenet_lt/livt_bal/vit_base/seed0", "finetune", "ImageNet-BAL"),
    ],
)
def test_weights_from_elsewhere_are_compared_with_none_but_the_same(text: str, node: str, wanted: str | None) -> None:
    run = Run.parse(text)
    row = of_row(load_params(Path(__file__).parents[2] / "params.yaml"), run, node, True)
    row.pop("manifest")
    entry = {"dataset": run.dataset, "method": run.method, "value": 50.0, **COMMON}
    entry["arch"] = tables.PUBLISHED_AS.get(run.arch, run.arch)
    told = [
        tables.judge(row, 50.0, math.nan, [Entry(**entry, external_data=data)], "top1")[3]
        for data in (None, wanted, "something else")
    ]
    without = "within" if wanted is None else f"not comparable: external data: {wanted}, published none"
    assert told[:2] == [without, "within"]
    assert told[2] == f"not comparable: external data: {wanted or 'none'}, published something else"


def test_a_row_tuned_on_the_test_set_shows_the_published_number_and_does_not_compare():
    config = load_params(Path(__file__).parents[2] / "params.yaml")
    row = of_row(config, Run("cifar100_lt_if200", "bagmar_pn_tau_test", "resnet32", 0), "train", True)
    row.pop("manifest")
    found = tables.judge({**row, "tau": 1.5}, 47.5, math.nan, published.load().results, "top1")
    assert found[0] == 47.5 and found[3] == "not comparable: tau chosen on the test set"


@pytest.mark.parametrize("method", ["ce", "mixup", "balms", "mislas", "crt_mixup", "bagmar"])
def test_rows_of_places_find_their_published_number(method):
    entries = published.load().results
    known = next(e for e in entries if (e.dataset, e.method, e.metric) == ("places_lt", method, "top1"))
    row = {"dataset": "places_lt", "method": method, "arch": "resnet152_places", "resolution": 224, "seed": 0}
    assert tables.judge(row, known.value, math.nan, [known], "top1")[0] == known.value
    assert "published resnet" not in tables.judge(row, known.value, math.nan, [known], "top1")[3]


def test_a_missing_run_is_a_row_that_says_how_to_make_it() -> None:
    missing = run(seed=2, missing="snakemake results/x", metrics=None)
    got = as_dicts([run(seed=0), missing, run(seed=1)])
    assert [r["seed"] for r in got] == ["0", "1", "2", "mean"]
    assert got[2]["verdict"] == "missing: snakemake results/x" and got[2]["top1"] == ""
    assert got[2]["published"] == "38.40"
    assert got[3]["verdict"] == "within (2 of 3 seeds)" and got[3]["seeds"] == "2"
    only = as_dicts([run(missing="make x", metrics=None, selected_on=None)])
    assert only[1]["verdict"] == "missing: 0 of 1 seeds" and only[1]["top1"] == ""


def test_a_missing_run_joins_its_method_whatever_chose_the_epoch() -> None:
    rows = [run(seed=0, selected_on="test"), run(seed=1, missing="make it", metrics=None, selected_on=None)]
    assert [r["seed"] for r in as_dicts(rows)] == ["0", "1", "mean"]


def test_both_ways_of_choosing_the_epoch_stand_side_by_side() -> None:
    got = as_dicts([run(), run(selected_on="test", top1=39.0)])
    assert [(r["seed"], r["selected_on"]) for r in got] == [
        ("0", "last"), ("mean", "last"), ("0", "best_on_test"), ("mean", "best_on_test"),
    ]  # fmt: skip


def test_same_bytes_whatever_the_order_of_seeds() -> None:
    rows = [run(m, s, top1=38 + s) for m, s in itertools.product(("ce", "mislas"), range(4))]
    shuffled = [*rows[:4], *rows[4:]]
    random.Random(0).shuffle(shuffled)
    shuffled.sort(key=lambda r: r["method"])
    for writer in (tables.to_csv, tables_text.to_md, tables_text.to_tex):
        texts = {writer(tables.tabulate(r, ENTRIES, "test")) for r in (rows, shuffled, rows)}
        assert len(texts) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([run(), run()], "seed 0 is listed twice"),
        ([run() | {"sed": 1}], "unknown key 'sed'; did you mean 'seed'"),
        ([run() | {"method": None}], "'method' is missing"),
        ([run() | {"metrics": None}], "expected metrics, or the command"),
        ([run() | {"selected_on": "tset"}], "unknown selected_on 'tset'; did you mean 'test'"),
    ],
)
def test_mistakes_are_one_line(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tables.tabulate(rows, ENTRIES, "test")


def test_cells() -> None:
    assert tables.cell("difference", -0.001) == "0.00"
    assert tables.cell("top1", math.nan) == tables.cell("top1", None) == ""
    assert tables.cell("tau", 0.7) == "0.7" and tables.cell("gmacs", 4.0) == "4"
    assert tables.cell("zero_classes", 3.0) == "3" and tables.cell("zero_classes", 0.5) == "0.50"


def frame() -> Any:
    rows = [run("ce", s, top1=38 + s / 10) for s in range(3)]
    rows += [run("mislas", s, top1=47 + s / 10) for s in range(3)]
    rows += [run("a_b|&%$", 0, top1=40.0)]
    return tables.tabulate(rows, ENTRIES, "cifar_100")


def test_markdown_has_even_rows_bold_best_and_sources() -> None:
    text = tables_text.to_md(frame())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for _, block in itertools.groupby(rows, key=len):
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
    assert "**47.10** ± 0.25" in text and "**38" not in text
    assert "a_b\\|&%$" in text and "47.00 [1]" in text and "38.40 [1]" in text
    assert text.split("## Sources")[1].strip() == f"1. {COMMON['source']}"


def test_latex_is_balanced_escaped_and_bold_in_each_group() -> None:
    text = tables_text.to_tex(frame())
    assert r"a\_b\textbar{}\&\%\$" in text and r"\textbf{47.10}{\scriptsize\,$\pm$\,0.25}" in text
    assert r"\textbf{3.00}" not in text and r"\textbf{5.00}" not in text.split(r"a\_b")[0]  # lower ECE is better
    bare = text.replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    body = text.split("\\toprule")[1].split("\\bottomrule")[0]
    lines = [x for x in body.splitlines() if x.endswith("\\\\") and "multicolumn" not in x]
    assert len({x.replace("\\&", "").count("&") for x in lines}) == 1 and len(lines) == 4


def test_latex_names_methods_for_readers_and_sets_papers_apart() -> None:
    rows = [run("ce", title="Cross-entropy", paper="baselines"), run("mislas", title="MiSLAS", paper="mislas")]
    rows += [run("mislas/stage1", title="MiSLAS: stage1", paper="mislas"), run("btm", title="BTM & more", paper="btm")]
    body = tables_text.to_tex(tables.tabulate(rows, ENTRIES, "t")).split("\\midrule")[1].splitlines()[2:]
    first = [line.strip().split(" & ")[0] for line in body]
    space = "\\addlinespace"
    assert first[:6] == ["Cross-entropy", space, "MiSLAS", "MiSLAS: stage1", space, r"BTM \& more"]


def test_what_was_chosen_on_the_test_set_competes_with_none_and_is_marked() -> None:
    tuned = {"not_comparable": "tau chosen on the test set"}
    rows = [run("ce", top1=38.0), run("tuned", top1=50.0, **tuned), run("best", top1=49.0, selected_on="test")]
    rows += [run("short", top1=37.0, undertrained=True)]
    made = tables.tabulate(rows, ENTRIES, "t")
    assert as_dicts(rows)[2]["verdict"] == "not published (tau chosen on the test set)"
    assert "**38.00**" in tables_text.to_md(made) and "**50.00**" not in tables_text.to_md(made)
    assert "<b>38.00</b>" in tables_text.to_html(made) and "<b>49.00</b>" not in tables_text.to_html(made)
    text = tables_text.to_tex(made)
    assert r"\textbf{38.00}" in text and "tuned$^{*}$" in text and "best$^{*}$" in text and r"short$^{\dag}$" in text
    assert text.count("chosen on the test set: shown, not compared") == 1 and text.count("undertrained") == 1


def test_latex_says_why_a_cell_is_no_run() -> None:
    rows = [run("ce"), {"dataset": "cifar100_lt_if100", "method": "x", "arch": "resnet32", "senseless": "no & why"}]
    text = tables_text.to_tex(tables.tabulate(rows, ENTRIES, "t"))
    assert r"{no such run: no \& why}" in text


@pytest.mark.slow
@pytest.mark.parametrize("methods", [3, 90])
def test_latex_compiles_and_fits_its_page(tmp_path: Path, methods: int) -> None:
    pdflatex = program("pdflatex", "texlive-latex-base", "texlive-latex-recommended")
    rows = [
        run(f"m{i}", s, title=f"Method {i}, of some length", paper=f"p{i // 7}") for i in range(methods) for s in (0, 1)
    ]
    made = tables.tabulate(rows, ENTRIES, "cifar_100") if methods > 3 else frame()
    (tmp_path / "t.tex").write_text(tables_text.tex_document(tables_text.to_tex(made)))
    command = [pdflatex, "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000
    assert "too large" not in done.stdout and "Overfull" not in done.stdout


def test_html_is_escaped_bold_and_loads_nothing() -> None:
    text = tables_text.to_html(frame())
    assert "a_b|&amp;%$" in text and "<b>47.10</b> <small>± 0.25</small>" in text
    assert "<b>3.00</b>" not in text and not re.search(r"src=|href=|url\(|@import|<script", text)


def test_write_by_suffix(tmp_path: Path) -> None:
    for suffix in (".csv", ".md", ".tex", ".html"):
        tables.write(frame(), tmp_path / "new" / f"t{suffix}")
        data = (tmp_path / "new" / f"t{suffix}").read_bytes()
        assert data.endswith(b"\n") and b"\r" not in data
    with pytest.raises(UserError, match=r"unknown table format '\.xls'"):
        tables.write(frame(), tmp_path / "t.xls")


def test_start_up_is_light() -> None:
    code = (
        "import time, sys; t = time.process_time(); import pandas, lt.tables, lt.metrics, lt.published as p\n"
        "lt.tables.tabulate([], p.load(), 't')\n"
        "slow = ('torch', 'scipy.stats', 'matplotlib')\n"
        "print(time.process_time() - t, [m for m in slow if m in sys.modules])"
    )
    best = math.inf
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        seconds, modules = out.split(maxsplit=1)
        assert modules.strip() == "[]"
        best = min(best, float(seconds))
    assert best <= 0.6
