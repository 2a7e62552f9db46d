"""The `subset` stage with the rule `dpp`: lists drawn from stored predictions, by each kernel and sampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faults import runs

from lt import artefact
from lt.data import sources
from lt.data.splits import Split
from lt.stages.subset import subset

K = 8
MADE = "predictions/manifest.json"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, Split, np.ndarray]:
    """A split and predictions of its training images: every second one of a class is known (p = 1), the others are
    not (p = 0); features point in K directions, image after image."""
    with pytest.MonkeyPatch.context() as patch:
        path = runs.folder(tmp_path_factory.mktemp("project"), patch)
        split, labels = Split.read(artefact.read(runs.SPLIT).folder), sources.load({"source": "digits"}, "train").labels
        labels, place = split.relabel(labels), np.zeros(len(labels), dtype=np.int64)
        for label in range(10):
            mine = split.train[labels[split.train] == label]
            place[mine] = np.arange(len(mine))
        order = np.random.RandomState(0).permutation(split.train)
        logits = np.zeros((len(order), 10), dtype=np.float32)
        logits[np.arange(len(order)), labels[order]] = np.where(place[order] % 2, 30.0, -30.0)
        with artefact.commit(MADE, recipe={}, inputs={}) as draft:
            features = np.eye(K, dtype=np.float32)[place[order] % K]
            np.savez(draft / "predictions.npz", logits=logits, labels=labels[order], indices=order, features=features)
        yield path, labels, split, place


@pytest.mark.parametrize(
    ("sampler", "kernel"),
    [("exact", "features"), ("dppy", "features"), ("exact", "paper"), ("mcmc", "paper"), ("dppy", "paper")],
)
def test_lists_are_what_the_kernel_prefers(project, monkeypatch, sampler: str, kernel: str) -> None:
    path, labels, split, place = project
    monkeypatch.chdir(path)
    known = runs.config.load(runs.ROOT / "params.yaml")
    raw = runs.recipes.of_stage(known, runs.config.Run.parse("digits/btm_dpp/resnet8/seed0"), "subset")
    raw["params"]["rule"] = {"name": "dpp", "k": K, "sampler": sampler, "kernel": kernel}
    recipe = f"{sampler}_{kernel}.json"
    runs.recipes.write(recipe, raw)
    drawn = []
    for number, index in enumerate((0, 1, 2, 3, 0)):
        out = f"subsets/{sampler}_{kernel}{number}"
        subset(recipe, split=runs.SPLIT, predictions=MADE, index=index, out=f"{out}/manifest.json")
        made = artefact.read(out)
        drawn.append(np.load(made / "indices.npy"))
        assert made.manifest["index"] == index and made.manifest["images"] == len(drawn[-1])
        np.testing.assert_array_equal(np.load(made / "class_counts.npy"), np.minimum(split.class_counts, K))
        assert np.isin(drawn[-1], split.train).all() and len(set(drawn[-1].tolist())) == len(drawn[-1])
    np.testing.assert_array_equal(drawn[0], drawn[4])
    assert len({tuple(each) for each in drawn}) == 4
    chosen = np.concatenate([each[split.class_counts[labels[each]] > K] for each in drawn[:4]])
    if kernel == "features":  # two images in one direction have no volume
        assert len(set(np.bincount(place[chosen] % K))) == 1
    else:  # two thirds: the weight of p = 0 is twice that of p = 1 where half of the images have each
        share = (place[chosen] % 2 == 0).mean()
        assert abs(share - 2 / 3) < 3 * np.sqrt(2 / 9 / len(chosen))
