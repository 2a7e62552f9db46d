"""Ten toy checkpoints and what the released code makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lt import merge

DATA = np.load(Path(__file__).parent / "btm" / "merge.npz")


def states(prefix: str) -> dict[str, torch.Tensor]:
    return {
        name[len(prefix) :]: torch.from_numpy(np.array(DATA[name]))
        for name in DATA.files
        if name.startswith(prefix) and "__meta_" not in name
    }


MODELS = [states(f"in{i}__") for i in range(10)]


def test_published_is_bit_exact() -> None:
    merged, expected = merge.MERGES["published"](MODELS), states("out__")
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        assert merged[name].dtype == value.dtype
        assert torch.equal(merged[name], value), name


def test_published_counters_truncate_on_loading() -> None:
    layer = torch.nn.BatchNorm2d(1)
    for start, kept in [(1260, int(DATA["loaded_num_batches_tracked"])), (3, 2)]:
        counters = [{"num_batches_tracked": torch.tensor(start)}] * 10
        layer.load_state_dict(merge.published(counters), strict=False)
        assert int(layer.num_batches_tracked) == kept


def test_soup_is_bit_exact() -> None:
    merged, expected = merge.MERGES["soup"](MODELS[:3]), states("soup3__")
    for name, value in expected.items():
        assert merged[name].dtype == value.dtype
        assert torch.equal(merged[name], value), name


def test_mean_is_the_same_to_float32() -> None:
    merged, expected = merge.MERGES["mean"](MODELS), states("out__")
    for name, value in expected.items():
        assert torch.allclose(merged[name].float(), value, rtol=0, atol=1e-6), name
        assert merged[name].dtype == MODELS[0][name].dtype


@pytest.mark.parametrize("rule", ["mean", "published", "soup"])
def test_files_equal_dicts(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "GROUP_ELEMENTS", 75)  # several groups
    paths = [tmp_path / f"{i}.safetensors" for i in range(10)]
    for path, state in zip(paths, MODELS, strict=True):
        save_file(state, path)
    merge.merge_files(paths, rule, tmp_path / "out.safetensors")
    merged, expected = load_file(tmp_path / "out.safetensors"), merge.merge(MODELS, rule)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
