from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lt import merge
from lt.errors import UserError


def model(seed: int, *, steps: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv1.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn1.running_var": torch.rand(4, generator=generator),
        "bn1.num_batches_tracked": torch.tensor(steps),
        "fc.half": torch.randn(5, generator=generator).to(torch.bfloat16),
    }


MODELS = [model(i, steps=3 + i) for i in range(4)]


def test_equal_models_come_back_bit_for_bit() -> None:
    merged = merge.mean([MODELS[0]] * 10)
    assert all(torch.equal(merged[name], value) for name, value in MODELS[0].items())
    assert all(merged[name].dtype == value.dtype for name, value in MODELS[0].items())


def test_mean_takes_any_iterable_and_leaves_its_inputs_alone() -> None:
    before = [{n: v.clone() for n, v in m.items()} for m in MODELS]
    merged = merge.mean(m for m in MODELS)
    exact = sum(m["conv1.weight"].double() for m in MODELS) / 4
    assert torch.equal(merged["conv1.weight"], exact.float())
    assert int(merged["bn1.num_batches_tracked"]) == 4  # 4.5 to the even neighbour
    assert int(merge.mean(MODELS[:3])["bn1.num_batches_tracked"]) == 4
    for rule in ("published", "soup"):
        merge.merge(MODELS, rule)
    merge.greedy_soup(MODELS, score=lambda state: float(state["conv1.weight"].mean()))
    for old, new in zip(before, MODELS, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_float64_accumulation_beats_float32() -> None:
    models = [{"w": torch.tensor([value])} for value in (1e8, 1.0, -1e8, 1.0)]
    assert merge.mean(models)["w"].item() == 0.5
    assert merge.published(models)["w"].item() != 0.5


@pytest.mark.parametrize("rule", ["mean", "published", "soup"])
def test_one_model_is_itself(rule: str) -> None:
    merged = merge.merge([MODELS[0]], rule)
    assert torch.equal(merged["conv1.weight"], MODELS[0]["conv1.weight"])
    assert merged["conv1.weight"].data_ptr() != MODELS[0]["conv1.weight"].data_ptr()


@pytest.mark.parametrize("rule", ["mean", "published", "soup", "greedy_soup", "interpolate"])
def test_mismatches_are_refused_by_name(rule: str) -> None:
    options = {"greedy_soup": {"score": lambda _: 1.0}, "interpolate": {"stage1": MODELS[0], "alpha": 0.5}}
    lacking = {n: v for n, v in MODELS[1].items() if n != "fc.half"}
    extra = {**MODELS[1], "fc.halff": torch.zeros(1)}
    bent = {**MODELS[1], "bn1.running_var": torch.zeros(5)}
    for other, words in [
        (lacking, r"model 1 lacks entry 'fc.half'"),
        (extra, r"model 1 has entry 'fc.halff' that model 0 lacks; did you mean 'fc.half'"),
        (bent, r"'bn1.running_var' has shape \(5,\) in model 1, expected \(4,\)"),
    ]:
        with pytest.raises(UserError, match=words):
            merge.merge([MODELS[0], other], rule, **options.get(rule, {}))
    with pytest.raises(UserError, match="no models given"):
        merge.merge([], rule, **options.get(rule, {}))


def test_unknown_rule_lists_the_known() -> None:
    with pytest.raises(UserError, match="did you mean 'mean'"):
        merge.merge(MODELS, "means")
    with pytest.raises(UserError, match="no option 'beta'; known: alpha, stage1"):
        merge.merge(MODELS, "interpolate", beta=1)
    with pytest.raises(UserError, match="'greedy_soup' needs score"):
        merge.merge(MODELS, "greedy_soup")


def test_non_finite_weights_are_named() -> None:
    broken = {**MODELS[1], "conv1.weight": MODELS[1]["conv1.weight"] * float("nan")}
    with pytest.raises(UserError, match=r"'conv1.weight' is not finite"):
        merge.mean([MODELS[0], broken])
    huge = [{"w": torch.full((3,), 1e308, dtype=torch.float64)}]
    assert torch.equal(merge.mean(huge)["w"], huge[0]["w"])  # finite, though its sum is not


def test_greedy_soup_takes_what_does_not_hurt() -> None:
    target = torch.tensor([1.0, 1.0])
    models = [{"w": torch.tensor(w)} for w in ([0.0, 1.0], [9.0, 9.0], [2.1, 1.0], [1.0, 2.0])]
    chosen: list[int] = []
    merged = merge.greedy_soup(models, score=lambda s: -float((s["w"] - target).norm()), chosen=chosen)
    # scores: -1, -11.3, -1.1, -1; 0+3 is closer, adding 2 is closer still, 1 hurts
    assert chosen == [0, 3, 2]
    assert torch.allclose(merged["w"], merge.mean([models[i] for i in chosen])["w"])


def test_greedy_soup_refuses_a_score_that_is_no_number() -> None:
    with pytest.raises(UserError, match="score of model 0 is not a number"):
        merge.greedy_soup(MODELS, score=lambda _: float("nan"))
    with pytest.raises(UserError, match="pass a sequence"):
        merge.greedy_soup(iter(MODELS), score=lambda _: 1.0)


def test_interpolation_ends_are_stage1_and_the_mean() -> None:
    stage1 = model(9, steps=100)
    for alpha, expected in [(0.0, stage1), (1.0, merge.mean(MODELS))]:
        merged = merge.interpolate(MODELS, stage1=stage1, alpha=alpha)
        assert all(torch.equal(merged[name], expected[name]) for name in merged)
    with pytest.raises(UserError, match=r"alpha is 1.5"):
        merge.interpolate(MODELS, stage1=stage1, alpha=1.5)
    with pytest.raises(UserError, match="stage 1 lacks entry"):
        merge.interpolate(MODELS, stage1={}, alpha=0.5)


def saved(folder: Path) -> list[Path]:
    paths = [folder / f"branch{i}.safetensors" for i in range(4)]
    for path, state in zip(paths, MODELS, strict=True):
        save_file(state, path)
    return paths


def test_files_with_stage1_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "GROUP_ELEMENTS", 12)
    paths, out = saved(tmp_path), tmp_path / "out.safetensors"
    save_file(model(9), tmp_path / "stage1.safetensors")
    merge.merge_files(paths, "interpolate", out, stage1=tmp_path / "stage1.safetensors", alpha=0.3)
    expected = merge.interpolate(MODELS, stage1=model(9), alpha=0.3)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(out).items())
    chosen: list[int] = []
    merge.merge_files(paths, "greedy_soup", out, score=lambda s: float(s["conv1.weight"].mean()), chosen=chosen)
    expected = merge.mean([MODELS[i] for i in chosen])
    assert all(torch.equal(value, expected[name]) for name, value in load_file(out).items())


@pytest.mark.parametrize("elements", [1, 7, 1 << 17])
def test_stretches_of_every_type_and_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(merge, "GROUP_ELEMENTS", elements)
    paths, states = [tmp_path / f"{i}.safetensors" for i in range(3)], []
    for i, path in enumerate(paths):
        kinds = {str(t).split(".")[1]: torch.full((3, 5), 2 * i + 1, dtype=t) for t in merge.TYPES.values()}
        states.append({**kinds, "scalar": torch.tensor(i), "empty": torch.ones(0, 4), "one": torch.rand(1, 1, 9)})
        save_file(states[-1], path)
    merge.merge_files(paths, "mean", tmp_path / "out.safetensors")
    found, expected = load_file(tmp_path / "out.safetensors"), merge.mean(states)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


@pytest.mark.parametrize("rule", ["mean", "published", "soup", "interpolate"])
def test_no_rule_passes_on_what_is_not_finite(rule: str) -> None:
    broken = {**MODELS[1], "bn1.running_var": torch.full_like(MODELS[1]["bn1.running_var"], float("inf"))}
    options = {"stage1": MODELS[0], "alpha": 0.5} if rule == "interpolate" else {}
    with pytest.raises(UserError, match=r"'bn1.running_var' is not finite"):
        merge.merge([MODELS[0], broken], rule, **options)


def test_file_mistakes_are_named(tmp_path: Path) -> None:
    paths, out = saved(tmp_path), tmp_path / "out.safetensors"
    with pytest.raises(UserError, match=r"none.safetensors does not exist"):
        merge.merge_files([*paths, tmp_path / "none.safetensors"], "mean", out)
    with pytest.raises(UserError, match="is one of the models"):
        merge.merge_files(paths, "mean", paths[0])
    with pytest.raises(UserError, match="needs stage1"):
        merge.merge_files(paths, "interpolate", out, alpha=0.5)
    with pytest.raises(UserError, match="'mean' has no option 'stage1'"):
        merge.merge_files(paths, "mean", out, stage1=paths[0])
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        merge.merge_files([paths[0], tmp_path / "bad.safetensors"], "mean", out)
    save_file({**MODELS[0], "bn1.running_var": torch.zeros(7)}, tmp_path / "bent.safetensors")
    with pytest.raises(UserError, match=r"'bn1.running_var' has shape \(7,\) in .*bent"):
        merge.merge_files([paths[0], tmp_path / "bent.safetensors"], "mean", out)
    assert not out.exists()


def test_bn_statistics_are_those_of_the_batches() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4, momentum=0.3), torch.nn.Dropout(0.5))
    net[1].running_mean.fill_(7.0)
    batches = [torch.randn(8, 3) + i for i in range(5)]
    net.train()
    merge.reestimate_bn(net, [(x, None) for x in batches])
    features = [net[0](x) for x in batches]
    assert torch.allclose(net[1].running_mean, torch.stack([f.mean(0) for f in features]).mean(0), atol=1e-6)
    assert torch.allclose(net[1].running_var, torch.stack([f.var(0) for f in features]).mean(0), atol=1e-6)
    assert net.training and net[2].training and net[1].momentum == 0.3
    kept = net[1].running_mean.clone()
    with pytest.raises(UserError, match="no batches"):
        merge.reestimate_bn(net, [])
    assert torch.equal(net[1].running_mean, kept)
    merge.reestimate_bn(torch.nn.Linear(2, 2), [])  # nothing to measure
