"""Without ranks, everything here is the identity; two ranks are tried in tests/workflow/test_ranks.py."""

import pytest
import torch
from torch import nn

from lt import distributed
from lt.scratch import hold


def test_one_process_is_a_world_of_its_own():
    model, x = nn.Linear(2, 2), torch.arange(3.0)
    assert distributed.world() == 1 and distributed.rank() == 0 and distributed.is_main()
    assert distributed.wrap(model, torch.device("cpu")) is model
    for same in (distributed.mean, distributed.total, distributed.gather_rows):
        assert same(x) is x
    assert distributed.agree(True, False, device=torch.device("cpu")) == (True, False)
    distributed.barrier()
    distributed.same_buffers(nn.BatchNorm1d(2))


def test_no_group_is_joined_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.ranks() as device:
        assert device.type in ("cpu", "cuda") and not torch.distributed.is_initialized()


def test_a_reduction_is_left_out_only_where_there_is_one():
    class Counts(nn.Linear):
        entered = 0

        def no_sync(self):
            self.entered += 1
            return torch.no_grad()

    network = Counts(2, 2)
    with distributed.no_sync(network, False):
        assert torch.is_grad_enabled()
    with distributed.no_sync(network, True):
        assert not torch.is_grad_enabled()
    with distributed.no_sync(nn.Linear(2, 2), True):
        assert torch.is_grad_enabled()
    assert network.entered == 1


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_group_of_one_reduces_to_itself(group):
    x = torch.arange(3.0)
    torch.testing.assert_close(distributed.total(x), x)
    assert distributed.agree(True, False, device=torch.device("cpu")) == (True, False)


def test_what_the_main_rank_holds_is_let_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with distributed.main_holds(hold("results/a/manifest.json", "k")) as held:
        assert held.folder.name == "k"
    assert not (tmp_path / "scratch").exists()
