"""The accelerator section, every line of it, at toy sizes on a CPU."""

import json

import pytest
import torch

from bench import gpu


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(gpu, "WARM_UP", 4)  # more than a capture's own


@pytest.mark.parametrize("name", ["resnet32", "ride3"])
def test_a_network_is_measured(name, capsys, tmp_path):
    out = tmp_path / "table.md"
    assert gpu.main(["--device", "cpu", "--only", name, "--seconds", "0", "--out", str(out)]) == 0
    head, row = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert head["torch"] == torch.__version__ and row["network"] == name and row["captured"]
    assert row["ours_images_s"] > 0 and row["ratio"] > 0 and "data_wait_percent" in row
    assert ("cifar100_lt_200_epochs_s" in row) == (name == "resnet32")
    assert f"| {name} | 2 | True |" in out.read_text()


@pytest.mark.parametrize("name", gpu.NETWORKS)
def test_every_network_has_a_loss(name):
    spec = gpu.NETWORKS[name]
    small = {"img_size": 64} if name == "mae_base" else {}  # its positions are made on the CPU
    with torch.device("cpu" if small else "meta"):
        network = gpu.models.build(spec.arch, spec.classes, seed=0, **dict(spec.options), **small)
        size = small.get("img_size", spec.size)
        loss = gpu.loss_of(network, torch.empty(2, 3, size, size), torch.zeros(2, dtype=torch.int64))
    assert loss.ndim == 0


def test_without_a_device_nothing_is_measured(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main([]) == 0 and "no CUDA device" in capsys.readouterr().out
