"""Grids for dvc.yaml: which of its graphs a method is run by, seen from the stages that the method's recipe has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trees import ROOT

from lt.checks import IMPLICIT
from lt.config import load
from lt.schema import Run

CONFIG = load(ROOT / "params.yaml")
# One method for each list of methods in params.yaml's `grid`; a method with the same shape belongs to the same list.
EXAMPLES = {
    "baselines": "digits/ce/resnet8",
    "ce_posthoc": "digits/ce_pn/resnet8",
    "ce_tuned": "digits/ce_pn_tau/resnet8",
    "ce_means": "digits/ncm/resnet8",
    "ce_stage2": "digits/crt/resnet8",
    "balms_stage2": "cifar10_lt_if100/balms/resnet32",
    "mixup": "digits/mixup/resnet8",
    "mislas": "digits/mislas/resnet8",
    "mislas_stage2": "digits/crt_mixup/resnet8",
    "mislas_ce": "digits/mislas_ce/resnet8",
    "mislas_ce_stage2": "digits/crt_plain/resnet8",
    "btm": "digits/btm/resnet8",
    "btm_merged": "digits/btm_soup/resnet8",
    "btm_drawn": "digits/btm_dpp/resnet8",
    "btm_second": "places_lt/btm_plain2/resnet152_places",
    "ride": "digits/ride3/resnet8",
    "ride_distill": "digits/ride3_distill/resnet8",
    "ride2_ea": "digits/ride2_ea/resnet8",
    "ride_ea": "digits/ride3_ea/resnet8",
    "ride4_ea": "digits/ride4_ea/resnet8",
    "ride_distill_ea": "digits/ride3_distill_ea/resnet8",
    "ride4_distill_ea": "digits/ride4_distill_ea/resnet8",
    "ride_tau_norm": "digits/ride3_tau_norm/resnet8",
    "bagmar": "digits/bagmar/resnet8",
    "bagmar_posthoc": "digits/bagmar_pn/resnet8",
    "bagmar_ce_posthoc": "digits/bagmar_ce_pn/resnet8",
    "bagmar_tuned": "digits/bagmar_pn_tau/resnet8",
    "bagmar_means": "digits/bagmar_pn_train/resnet8",
    "bagmar_on_ce": "imagenet_lt/bagmar/resnet10",
    "bagmar_stage2": "imagenet_lt/bagmar/resnet50",
    "ce_best": "digits/ce_best/resnet8",
    "balanced_softmax_best": "digits/balanced_softmax_best/resnet8",
    "bagmar_best": "digits/bagmar_best/resnet8",
    "probe": "digits/bns_lp/resnet8",
    "ipdpp": "digits/ipdpp_paper/resnet8",
    "mae": "digits/mae/vit_digits",
    "livt": "digits/livt/vit_digits",
    "livt_readme": "imagenet_lt/livt_readme/vit_base",
    "livt_across": "cifar10_lt_if100/livt/vit_base",
}
BESIDE = {"probe": "bns", "btm_drawn": "btm_drawn_by"}  # what these need in one more list


def shape(run: Run) -> tuple:
    """Whose each stage is, the one that the tables report, and what its evaluation is tuned on.

    Two lists are told apart by more: BaGMar's from the baselines, BTM on subsets drawn from predictions from BTM.
    """
    stages = [s for s in CONFIG.stages_of(run) if s not in IMPLICIT]
    homes = {s: CONFIG.home(run, s) for s in stages}
    final = CONFIG.final_stage(run.method)
    if not any(home == run for home, _ in homes.values()):
        homes = {final: homes[final]}
    whose = tuple(
        ("own" if home == run else home.method, home.dataset == run.dataset, stage) for home, stage in homes.values()
    )
    apart = CONFIG.meta(run.method, "paper") == "bagmar" or (
        "subset" in stages and CONFIG.stage(run, "subset").params.of is not None
    )
    return tuple(homes), whose, final, CONFIG.stage(run, "evaluate").params.tuning, apart


GRAPHS = {shape(Run(*text.split("/"), 0)): key for key, text in EXAMPLES.items()}


def grid(dataset: str, arch: str, methods: Iterable[str]) -> dict[str, Any]:
    """A whole `grid` that runs these methods, where the network has recipes for them, and what they stand on."""
    lists: dict[str, list[str]] = {key: [] for key in (*EXAMPLES, *BESIDE.values(), "on_val", "on_train")}
    elsewhere, seen = set(), set()
    waiting = [m for m in (name.split("/")[0] for name in methods) if arch in CONFIG.archs(m, dataset)]

    def add(key: str, method: str) -> None:
        if method not in lists[key]:
            lists[key].append(method)

    while waiting:
        method = waiting.pop(0)
        if method in seen:
            continue
        seen.add(method)
        run = Run(dataset, method, arch, 0)
        key = GRAPHS.get(shape(run))
        assert key, f"{run}: no graph of dvc.yaml has this shape"
        add(key, method)
        homes = [CONFIG.home(run, s)[0] for s in CONFIG.stages_of(run) if s not in IMPLICIT]
        elsewhere |= {home.dataset for home in homes} - {dataset}
        waiting += [home.method for home in homes if home.dataset == dataset]
        if key in BESIDE:
            add(BESIDE[key], "mislas" if key == "btm_drawn" else method)
        if tuning := CONFIG.stage(run, "evaluate").params.tuning:
            add(f"on_{tuning}", CONFIG.home(run, CONFIG.final_stage(method))[0].method)
    return {
        "datasets": [dataset],
        "archs": [arch],
        "vits": [arch],
        "seeds": [0],
        "mae_datasets": sorted(elsewhere),
        "packs": [],
        "mislas_nodes": ["stage1", "stage2"],
        "btm_nodes": ["merge", "stage2"],
        "branch_nodes": ["branch0"],
        "branches": [0, 1],
        "tables": {},
        "figures": {},
        **lists,
    }


def smoke_grid(dataset: str, arch: str, methods: Iterable[str]) -> dict[str, Any]:
    """The same under the overlay `smoke`, which leaves two branches."""
    found = grid(dataset, arch, methods)
    return found | {key: [f"{name}_smoke" for name in found[key]] for key in ("datasets", "mae_datasets")}
