"""The `merge` stage on images of many sizes, as the list sets have them, and merges that come from a file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from lt import artefact, metrics, models
from lt.config import Config, Run, load
from lt.data.class_map import class_map
from lt.data.splits import Split
from lt.errors import UserError
from lt.stages import recipe as recipes
from lt.stages.common import Recipe
from lt.stages.merge import Score, merge
from lt.stages.networks import save_weights
from lt.stages.predict import predict
from lt.stages.split import split
from lt.stages.train import train

ROOT = Path(__file__).resolve().parents[2]
SPLIT = "split/manifest.json"
STATISTICS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
LISTED = {"source": "list", "family": "mini", "num_classes": 3, "image": {"size": 40, "channels": 3, **STATISTICS},
          "lists": {part: f"{part}.txt" for part in ("train", "val", "test")}, "imbalance": None, "prefix": {},
          "holdout": {"test": 0, "val": 0}, "class_map": "label"}  # fmt: skip


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "params.yaml")


def recipe(config: Config, run: str, stage: str) -> dict:
    found = recipes.of_stage(config, Run.parse(f"imagenet_lt/{run}/resnet8/seed0"), stage)
    return {**found, "data": {k: v for k, v in LISTED.items() if k in found["data"]}}


@pytest.fixture
def mini(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images of twelve sizes a part, their split, and three networks that nobody trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder, draw = tmp_path / "data/mini", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part in ("train", "val"):
        names = [f"{part}{i}.png" for i in range(12)]
        for i, name in enumerate(names):
            pixels = draw.integers(0, 256, (30 + 3 * i, 70 - 2 * i, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        (folder / f"{part}.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    recipes.write("split.json", {**recipe(config, "btm", "merge"), "data": LISTED})
    split("split.json", out=SPLIT)
    made = recipe(config, "btm", "branch")
    for i in range(3):
        out = f"branches/branch{i}/manifest.json"
        with artefact.commit(out, recipe=made, inputs={}, started=time.time()) as draft:
            save_weights(models.build("resnet8", 3, seed=i).state_dict(), draft / "model.safetensors")
    return tmp_path


def merged(config: Config, method: str) -> dict[str, torch.Tensor]:
    raw = recipe(config, method, "merge")
    raw["params"] = {**raw["params"], "count": 3}
    recipes.write("merge.json", raw)
    merge("merge.json", models="branches", split=SPLIT, out=f"{method}/manifest.json")
    return load_file(f"{method}/model.safetensors")


def test_the_greedy_soup_sees_validation_images_as_predictions_do(config: Config, mini: Path) -> None:
    merged(config, "btm_greedy")
    counts = Split.read(Path(SPLIT).parent).class_counts
    recipes.write("predict.json", recipe(config, "btm_greedy", "predict"))
    scores = []
    for i in range(3):
        predict(
            "predict.json",
            split=SPLIT,
            model=f"branches/branch{i}/manifest.json",
            part="val",
            out=f"p{i}/manifest.json",
        )
        found = np.load(f"p{i}/predictions.npz")
        assert len(found["labels"]) == 12
        scores.append(metrics.evaluate(found["logits"], found["labels"], class_counts=counts)["gm"])
        opened = [artefact.read(p) for p in (f"branches/branch{i}/manifest.json", SPLIT)]
        ours = Score(*opened, Recipe.read("merge.json"))(load_file(f"branches/branch{i}/model.safetensors"))
        assert ours == scores[-1]
    assert artefact.read("btm_greedy/manifest.json").manifest["chosen"][0] == int(np.argmax(scores))


def test_statistics_are_measured_on_images_as_predictions_see_them(config: Config, mini: Path) -> None:
    import lt.compat  # noqa: F401, I001  (before torchvision)
    from torchvision.transforms import functional as TF

    plain, again = merged(config, "btm"), merged(config, "btm_rebn")
    images = [Image.open(mini / f"data/mini/train{i}.png").convert("RGB") for i in range(12)]
    seen = [TF.to_tensor(TF.center_crop(TF.resize(image, 45), [40, 40])) for image in images]
    batch = torch.stack([TF.normalize(image, **STATISTICS) for image in seen])
    maps = torch.nn.functional.conv2d(batch, plain["conv1.weight"], padding=1)
    torch.testing.assert_close(again["bn1.running_mean"], maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again["bn1.running_var"], maps.transpose(0, 1).flatten(1).var(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(again["conv1.weight"], plain["conv1.weight"])
    assert artefact.read("btm/manifest.json").manifest["recipe"]["params"]["image"]["size"] is None


def test_only_merges_that_look_at_images_depend_on_how(config: Config) -> None:
    found = {
        m: recipe(config, m, "merge")["params"].get("predict") for m in ("btm", "btm_half", "btm_greedy", "btm_rebn")
    }
    assert found["btm"] is found["btm_half"] is None
    assert found["btm_greedy"] == found["btm_rebn"] and found["btm_greedy"]["augment"] == {"name": "eval_large"}


def test_no_soup_without_validation_images(config: Config) -> None:
    for dataset in ("inat18", "cifar10_lt_if100"):
        with pytest.raises(UserError, match=f"greedy_soup scores on validation images; {dataset} has none"):
            recipes.of_stage(config, Run(dataset, "btm_greedy", "resnet50", 0), "merge")
    for dataset in ("inat18_holdout", "places_lt", "digits", "cifar10_lt_if100_holdout"):
        assert recipes.of_stage(config, Run(dataset, "btm_greedy", "resnet50", 0), "merge")["verb"] == "merge"


COUNTS = np.array([3, 9, 3, 7, 3, 9, 1] * 6)


@pytest.mark.parametrize("order", ["legacy", "stable"])
def test_a_released_merge_stands_in_under_both_drivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """`legacy`: rows as the file has them; a set in another order takes each class's own row."""
    monkeypatch.chdir(tmp_path)
    state = models.build("resnet10", len(COUNTS), seed=4).state_dict()
    head = {f"module.{k}": v for k, v in state.items() if k.startswith("fc.")}
    body = {f"module.{k}": v.float() for k, v in state.items() if not k.startswith("fc.")}
    file = tmp_path / "data/weights/merge.pth.tar"
    file.parent.mkdir(parents=True)
    torch.save({"epoch": 180, "state_dict_model": body, "state_dict_classifier": head}, file)
    run = Run("imagenet_lt_legacy" if order == "legacy" else "imagenet_lt", "btm", "resnet10", 0)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    entry = {"file": file.name, "sha256": artefact.sha256(file)}
    params["recipes"]["btm"]["runs"] = {str(run): {"stages": {"merge": {"imported": entry}}}}
    raw = recipes.of_stage(Config(params), run, "merge")
    assert raw["verb"] == "train" and raw["params"]["imported"]["file"] == file.name
    raw["data"] = {**raw["data"], "num_classes": len(COUNTS)}
    recipes.write("merge.json", raw)
    mapping = class_map(COUNTS, order)
    lists = Split(train=np.arange(3), val=None, test=None, class_counts=COUNTS[np.argsort(mapping)], class_map=mapping,
                  parts={"train": "train", "val": None, "test": "test"})  # fmt: skip
    with artefact.commit(SPLIT, recipe={}, inputs={}, started=time.time()) as draft:
        lists.save(draft.folder)
    train("merge.json", split=SPLIT, out="snakemake/manifest.json")
    merge("merge.json", models="branches", split=SPLIT, out="dvc/manifest.json")
    ours, other = (load_file(f"{driver}/model.safetensors") for driver in ("snakemake", "dvc"))
    assert all(torch.equal(ours[k], other[k]) for k in ours)
    legacy = class_map(COUNTS, "legacy")
    assert torch.equal(ours["fc.weight"][mapping], state["fc.weight"][legacy])
    assert torch.equal(ours["fc.weight"], state["fc.weight"]) == (order == "legacy")
    assert torch.equal(ours["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert ours["bn1.num_batches_tracked"].dtype == torch.int64
