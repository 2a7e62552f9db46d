"""RIDE networks, BatchFormer and the released checkpoint against the released code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ride_nets import build, fill, images, official_name, state_by_official_name
from torch import Tensor, nn

from lt.models import convert_ride, experts, importing
from lt.models.batchformer import BatchFormer

HERE = Path(__file__).parent / "ride"
FORWARD, FORWARD_JSON = (
    np.load(HERE / "models_forward.npz"),
    json.loads((HERE / "models_forward.json").read_text()),
)
BF, BF_JSON = np.load(HERE / "batchformer.npz"), json.loads((HERE / "batchformer.json").read_text())
SLOW = ("r50", "rx50", "inat")


def marked(names: list[str]) -> list:
    """The 224-pixel networks take seconds."""
    return [pytest.param(n, marks=pytest.mark.slow if n.startswith(SLOW) else ()) for n in names]


def close(ours: Tensor, theirs: np.ndarray, atol: float) -> None:
    ours = ours.detach().numpy()[..., : theirs.shape[-1]]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.fixture(scope="module", params=marked(list(FORWARD_JSON)))
def case(request: pytest.FixtureRequest) -> tuple[str, dict, nn.Module]:
    info = FORWARD_JSON[request.param]
    return request.param, info, fill(build(info["model"], info["kwargs"]))


def test_entries(case: tuple[str, dict, nn.Module]) -> None:
    _, info, net = case
    ours = {name: list(v.shape) for name, v in state_by_official_name(net).items()}
    assert ours == {name: shape for name, shape, *_ in info["entries"]}
    assert sum(p.numel() for p in net.parameters()) == info["n_params"]


def test_forward(case: tuple[str, dict, nn.Module]) -> None:
    name, info, net = case
    net = fill(net)
    x = images(info["input_seed"], info["input_shape"])
    for mode, atol in (("eval", 2e-5), ("train", 1e-4)):
        net.train(mode == "train")
        with torch.no_grad():
            features = net.features(x)
            logits = net.classify_experts(features)
        single = net.num_experts == 1
        close(features[0] if single else features.transpose(0, 1), FORWARD[f"{name}/{mode}/feat"], atol)
        close(logits.mean(1), FORWARD[f"{name}/{mode}/output"], atol)
        if not single:
            close(logits, FORWARD[f"{name}/{mode}/expert_logits"], atol)
    state = state_by_official_name(net)
    after = {k: v.double() for k, v in state.items() if "running" in k}
    order = [n for n, *_ in info["entries"] if "running" in n]
    for which, power in (("bn_sum", 1), ("bn_sumsq", 2)):
        sums = np.array([float((after[n] ** power).sum()) for n in order])
        np.testing.assert_allclose(sums, FORWARD[f"{name}/train/after/{which}"], rtol=2e-5, atol=2e-4)
    for n in ("backbone.bn1.running_mean", "backbone.bn1.running_var"):
        close(state[n], FORWARD[f"{name}/train/after/{n}"], 2e-5)


def test_one_expert_is_the_plain_network() -> None:
    """The LDAM baseline: the released names of one expert load into a plain ResNet-32 with a cosine head."""
    from lt import models

    info = FORWARD_JSON["r32_e1_ldam"]
    released = state_by_official_name(fill(build(info["model"], info["kwargs"])))
    net = models.build("resnet32", 100, head="cosine", head_options={"form": "normed"}).eval()
    net.load_state_dict(convert_ride.from_official(released))
    with torch.no_grad():
        close(net(images(info["input_seed"], info["input_shape"])), FORWARD["r32_e1_ldam/eval/output"], 2e-5)


@pytest.mark.parametrize("name", BF_JSON["layers"])
def test_encoder_layer(name: str) -> None:
    info = BF_JSON["layers"][name]
    encoder = BatchFormer(info["d"], heads=info["heads"], dropout=0.0).train()
    assert BatchFormer(info["d"]).encoder.self_attn.num_heads == info["heads"]
    fill_encoder(encoder)
    assert sum(p.numel() for p in encoder.parameters()) == info["n_params"]
    r = np.random.RandomState(info["input_seed"])
    x = torch.from_numpy(np.abs(r.randn(info["N"], info["d"]) * info["input_scale"]).astype(np.float32))
    g = torch.from_numpy(r.randn(info["N"], info["d"]).astype(np.float32))
    y = encoder(x.requires_grad_())
    close(y, BF[f"layer/{name}/y_train_p0"], 2e-5)
    (y * g).sum().backward()
    theirs = BF[f"layer/{name}/grad_x"]
    close(x.grad, theirs, 2e-5 * max(1.0, float(np.abs(theirs).max())))
    grads = {official_name(f"batchformer.{n}", 3): p.grad for n, p in encoder.named_parameters()}
    norms = np.array([float(grads[n].double().norm()) for n, *_ in info["entries"]])
    np.testing.assert_allclose(norms, BF[f"layer/{name}/param_grad_norm"], rtol=2e-5, atol=2e-5)


def fill_encoder(encoder: BatchFormer) -> None:
    holder = nn.Module()
    holder.batchformer, holder.num_experts = encoder, 3
    fill(holder)


@pytest.mark.parametrize("name", marked(list(BF_JSON["models"])))
def test_networks_with_batchformer(name: str) -> None:
    info = BF_JSON["models"][name]
    net = fill(build(info["model"], info["kwargs"]))
    assert sum(p.numel() for p in net.parameters()) == info["n_params"]
    assert len(net.state_dict()) == info["n_tensors"]
    x = images(info["input_seed"], info["input_shape"])
    with torch.no_grad():
        close(net.eval()(x), BF[f"model/{name}/eval/output"], 1e-4)
        streams = fill(net).train()(x, streams=True)
    assert len(streams) == (2 if info["kwargs"]["add_bt"] == 33 else 1)
    for logits, end in zip(streams, ("", "_old"), strict=False):
        close(logits, BF[f"model/{name}/train/logits{end}"], 1e-4)
        close(logits.mean(1), BF[f"model/{name}/train/output{end}"], 1e-4)


def test_encoded_features() -> None:
    info = BF_JSON["models"]["r10_e3_bt1"]
    net = fill(build(info["model"], info["kwargs"])).train()
    with torch.no_grad():
        encoded = net.batchformer(net.features(images(info["input_seed"], info["input_shape"])))
    close(encoded.transpose(0, 1), BF["model/r10_e3_bt1/train/feat"], 1e-4)


def test_released_checkpoint() -> None:
    info, numbers = (
        json.loads((HERE / "checkpoint_tiny.json").read_text()),
        np.load(HERE / "checkpoint_tiny.npz"),
    )
    container, _ = importing.load_official(HERE / "checkpoint_tiny.pth")
    assert not isinstance(container["config"], dict)  # nothing of the pickled configuration came to life
    sums = [float(v.double().sum()) for v in container["state_dict"].values()]
    np.testing.assert_allclose(sums, numbers["state_sum"], rtol=1e-6, atol=1e-6)
    assert convert_ride.SIGNATURES["ride"](container)
    net = build(info["model"], info["kwargs"])
    state = convert_ride.LAYOUTS["ride"](container)
    net.load_state_dict(state)
    with torch.no_grad():
        logits = net.eval().expert_logits(images(info["input_seed"], info["input_shape"]))
    close(logits, numbers["logits"], 2e-5)
    close(logits.mean(1), numbers["output"], 2e-5)
    back = convert_ride.to_official(state)
    assert list(back) == list(container["state_dict"])
    assert convert_ride.from_official({"module." + k: v for k, v in back.items()}).keys() == state.keys()


def test_tau_normalisation() -> None:
    misc, info = np.load(HERE / "misc.npz"), json.loads((HERE / "misc.json").read_text())["tnorm"]
    state = {}
    for e in range(info["num_experts"]):
        state[f"experts.{e}.fc.weight"] = torch.from_numpy(misc[f"tnorm/w{e}"])
        state[f"experts.{e}.fc.bias"] = torch.ones(len(misc[f"tnorm/w{e}"]))
    state = experts.tau_normalise(state, info["p"])
    for e in range(info["num_experts"]):
        np.testing.assert_allclose(state[f"experts.{e}.fc.weight"].numpy(), misc[f"tnorm/out{e}"], rtol=1e-6)
        np.testing.assert_array_equal(state[f"experts.{e}.fc.bias"].numpy(), misc[f"tnorm/bias_out{e}"])
