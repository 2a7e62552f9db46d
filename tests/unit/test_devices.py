"""What a stage says of its `device` switches, on a machine that has none of it."""

from types import SimpleNamespace

import pytest
import torch
from test_device import settings_of, state_of

from lt.stages.devices import device_lines, device_summary, set_products

PLAIN = {"tf32": False, "capture": False, "read_every": 1, "prefetch": True}


def job(precision="fp32", *, capture=False, read_every=1, **device):
    settings = settings_of(capture=capture, read_every=read_every, channels_last=True)
    params = {"precision": precision, "device": PLAIN | {"capture": capture, "read_every": read_every} | device}
    return SimpleNamespace(
        device=torch.device("cpu"), params=params, settings=settings, state=state_of(), loader=state_of().loader
    )


def test_products_are_exact_unless_the_recipe_says_so():
    kept = torch.get_float32_matmul_precision()
    try:
        for tf32, wanted in ((True, "high"), (False, "highest")):
            set_products({"device": {"tf32": tf32}})
            assert torch.get_float32_matmul_precision() == wanted
    finally:
        torch.set_float32_matmul_precision(kept)


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, []),
        ({"precision": "fp16"}, ["precision: fp16 is not native to this device; training in fp32"]),
        ({"tf32": True}, ["tf32: no CUDA device; products stay in fp32"]),
        ({"read_every": 9}, ["read_every: the loss is looked at every 9 updates"]),
        ({"capture": True}, ["capture: not used (read_every 1)"]),
        (
            {"capture": True, "read_every": 9},
            ["capture: whole steps are recorded and replayed", "read_every: the loss is looked at every 9 updates"],
        ),
    ],
)
def test_a_line_for_each_switch_that_is_on(given, lines):
    assert list(device_lines(job(**given))) == lines


def test_the_ways_that_were_taken():
    made = device_summary(job(capture=True, read_every=9, tf32=True))
    assert made == {
        "type": "cpu", "tf32_products": False, "tf32_convolutions": False, "channels_last": True, "fused": True,
        "captured": True, "compiled": False, "read_every": 9,
    }  # fmt: skip
    assert not device_summary(job(capture=True))["captured"]
