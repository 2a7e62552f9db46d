"""States outside the declared outputs: two are kept, the newest sound one is read, one process holds a stage."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from lt import scratch
from lt.errors import UserError
from lt.scratch import Scratch, hold, home, key_of

OUT = "results/digits/ce/resnet8/seed0/train/manifest.json"


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_stage_has_its_place_under_scratch():
    assert home(OUT).as_posix() == "scratch/digits/ce/resnet8/seed0/train"
    assert home("results/a/branches/branch0").as_posix() == "scratch/a/branches/branch0"
    assert home("../../etc/x").as_posix() == "scratch/etc/x" and home("/etc/x").as_posix() == "scratch/etc/x"


def test_keys_tell_parts_apart():
    assert key_of("ab", "c") != key_of("a", "bc") and key_of("ab", "c") == key_of("ab", "c")


def test_two_states_are_kept_and_the_newest_is_read(tmp_path):
    kept = Scratch(tmp_path)
    for number in range(4):
        assert kept.save({"number": number, "tensor": torch.full((2,), number)})
    assert sorted(p.name for p in tmp_path.glob("*")) == [
        "state-3.pt",
        "state-3.sha256",
        "state-4.pt",
        "state-4.sha256",
    ]
    assert Scratch(tmp_path).load()["number"] == 3
    again = Scratch(tmp_path)
    again.save({"number": 9})
    assert again.load() == {"number": 9} and not (tmp_path / "state-3.pt").exists()


def test_a_flipped_bit_anywhere_is_seen(tmp_path, capsys):
    kept = Scratch(tmp_path)
    kept.save({"number": 1})
    kept.save({"number": 2})
    whole = (tmp_path / "state-2.pt").read_bytes()
    for place in range(0, len(whole), len(whole) // 7):
        broken = bytearray(whole)
        broken[place] ^= 4
        (tmp_path / "state-2.pt").write_bytes(broken)
        assert kept.load() == {"number": 1}
        assert "state-2.pt: damaged" in capsys.readouterr().err


def test_no_state_and_only_damaged_ones_mean_the_start(tmp_path):
    kept = Scratch(tmp_path)
    assert kept.load() is None
    kept.save({"number": 1})
    (tmp_path / "state-1.pt").write_bytes(b"")
    assert kept.load() is None


@pytest.mark.parametrize(("place", "error"), [
    ("save", OSError(errno.ENOSPC, "No space left on device")),
    ("save", RuntimeError("write failed")),  # how torch's writer says it
    ("digest", OSError(errno.ENOSPC, "No space left on device")),
    ("replace", OSError(errno.ENOSPC, "No space left on device")),
])  # fmt: skip
def test_a_full_disk_keeps_the_states_before(tmp_path, monkeypatch, capsys, error, place):
    kept = Scratch(tmp_path)
    kept.save({"number": 1})
    before = sorted(tmp_path.glob("*"))

    def full(*_):
        raise error

    with monkeypatch.context() as patch:
        target = {"save": (torch, "save"), "digest": (scratch, "write_text"), "replace": (os, "replace")}[place]
        patch.setattr(*target, full)
        assert not kept.save({"number": 2})
    assert "state not saved" in capsys.readouterr().err
    assert sorted(tmp_path.glob("*")) == before and kept.load() == {"number": 1}
    assert kept.save({"number": 3}) and kept.load() == {"number": 3}


def test_a_stage_that_is_done_leaves_nothing():
    with hold(OUT, "k") as kept:
        kept.save({"number": 1})
    assert not os.path.exists("scratch")


def test_a_stage_that_failed_keeps_its_states():
    with pytest.raises(ValueError), hold(OUT, "k") as kept:
        kept.save({"number": 1})
        raise ValueError
    with hold(OUT, "k") as kept:
        assert kept.load() == {"number": 1}


def test_states_of_another_key_are_named_and_not_read(capsys):
    with pytest.raises(ValueError), hold(OUT, "one") as kept:
        kept.save({"number": 1})
        raise ValueError
    with hold(OUT, "two") as kept:
        assert kept.load() is None
    assert "one: state of another recipe or input; starting afresh" in capsys.readouterr().err


def test_one_process_holds_a_stage():
    with (
        hold(OUT, "k"),
        pytest.raises(UserError, match=rf"already being made by process {os.getpid()} on \S+; end"),
        hold(OUT, "other"),
    ):
        pass
    with hold("results/digits/ce/resnet8/seed0/train2", "k"), hold(OUT, "k"):
        pass


def test_the_lock_of_a_dead_process_is_free():
    code = "import os, sys; from lt.scratch import hold\nwith hold(sys.argv[1], 'k'): os.kill(os.getpid(), 9)"
    root = os.path.dirname(os.path.dirname(scratch.__file__))
    done = subprocess.run([sys.executable, "-c", code, OUT], env=os.environ | {"PYTHONPATH": root}, check=False)
    assert done.returncode == -9
    with hold(OUT, "k"):
        pass
