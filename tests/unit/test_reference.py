"""What docs/reference/ holds and what docs/results.md says of it: unchanged, plausible, and the same numbers."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from lt import cli
from lt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference"
COLUMNS = ("top1", "many", "medium", "few", "hm", "gm")
SECTIONS = {"fashion": "Fashion-MNIST, imbalance factor 100", "digits_full": "Digits"}
METHODS = {
    "cross-entropy": "ce",
    "the same, PN at tau 1": "ce_pn",
    "the same, PN, tau chosen on validation": "ce_pn_tau",
    "the same, tau-normalised, on validation": "tau_norm",
    "the same, nearest class mean": "ncm",
    "the same, logits adjusted": "logit_adjustment_posthoc",
    "balanced softmax": "balanced_softmax",
    "logit adjustment, trained": "logit_adjustment",
    "LADE": "lade",
    "class-balanced cross-entropy": "cb_ce",
    "class-balanced focal": "cb_focal",
    "LDAM-DRW": "ldam_drw",
    "focal": "focal",
    "Remix": "remix",
    "EQL": "eql",
    "cRT on cross-entropy": "crt",
    "cRT on it": "crt_mixup",
    "LWS on cross-entropy": "lws",
    "decoupled balanced softmax": "decoupled_balanced_softmax",
    "BALMS": "balms",
    "mixup = MiSLAS's stage 1": "mislas/stage1",
    "MiSLAS": "mislas",
    "BTM, one branch": "btm/branch0",
    "BTM, merged, before stage 2": "btm/merge",
    "BTM": "btm",
    "RIDE, 2 experts": "ride2",
    "RIDE, 3 experts": "ride3",
    "RIDE, 4 experts": "ride4",
    "RIDE, 3 experts, distilled from 6": "ride3_distill",
    "RIDE, 3 experts, router": "ride3_ea",
    "RIDE, 3 experts, BatchFormer": "ride3_bf",
    "balanced softmax, BatchFormer": "bs_bf",
    "BaGMar's network, cross-entropy": "bagmar_ce",
    "BaGMar": "bagmar",
    "BaGMar, PN at tau 1": "bagmar_pn",
    "BaGMar, PN, tau chosen on validation": "bagmar_pn_tau",
    "IP-DPP, released sampler": "ipdpp",
    "IP-DPP, kernel as coded": "ipdpp_code",
    "IP-DPP, kernel as printed": "ipdpp_paper",
    "IP-DPP, uniform draws": "ipdpp_uniform",
    "BNS, linear probe": "bns_lp",
    "ViT, cross-entropy": "vit_ce",
    "ViT, DeiT's training": "deit",
    "ViT, balanced BCE": "vit_balbce",
    "ViT, masked pre-training, cross-entropy": "mae_ce",
    "LiVT (the same with balanced BCE)": "livt",
    "LiVT with balanced CE": "livt_balce",
    "LiVT with MiSLAS's loss": "livt_mislas",
    "LiVT with LDAM": "livt_ldam",
    "LiVT with class-balanced BCE": "livt_cb",
    "LiVT with plain BCE": "livt_bce",
}


def means(table: str) -> dict[str, dict[str, str]]:
    with open(REFERENCE / table / f"{table}.csv", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file) if row["seed"] == "mean"}


def printed(table: str) -> dict[str, list[str]]:
    """Cells of the section's table, by row title."""
    text = (ROOT / "docs/results.md").read_text()
    section = text.split(f"\n## {SECTIONS[table]}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    assert rows[0] == ["method", "top-1", "many", "medium", "few", "HM", "GM"]
    return {title: cells for title, *cells in rows[1:]}


def test_cross_entropy_has_learnt() -> None:
    assert float(means("fashion")["ce"]["top1"]) >= 60
    assert float(means("digits_full")["ce"]["top1"]) >= 80


@pytest.mark.parametrize("table", SECTIONS)
def test_no_row_lacks_a_seed(table: str) -> None:
    assert {row["seeds"] for row in means(table).values()} == {"3"}


@pytest.mark.parametrize("table", SECTIONS)
def test_the_page_says_what_the_table_says(table: str) -> None:
    rows, compared = means(table), 0
    for title, cells in printed(table).items():
        row = rows[METHODS[title]]
        for column, cell in zip(COLUMNS, cells, strict=True):
            for text, name in zip(cell.split(" ± "), (column, f"{column}_ci95"), strict=False):
                assert re.fullmatch(r"\d+\.\d", text), (title, column, cell)
                assert abs(float(text) - float(row[name])) < 0.0501, (title, name, text, row[name])
                compared += 1
    assert compared > 150


def test_published_tables_are_as_they_were_published(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cli.run(["verify", str(REFERENCE)])
    assert " published, 0 problems" in capsys.readouterr().out
    copy = tmp_path / "reference"
    shutil.copytree(REFERENCE, copy)
    for file in sorted(p for p in copy.rglob("*") if p.is_file() and p.name != "made.md"):
        raw = file.read_bytes()
        file.write_bytes(raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])
        with pytest.raises(UserError, match="1 problems"):
            cli.run(["verify", str(copy)])
        assert f"{file.name}: changed since it was published" in capsys.readouterr().out
        file.write_bytes(raw)
