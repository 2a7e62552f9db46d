import pytest
from faults import runs


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """What a training that nothing disturbs leaves behind."""
    with pytest.MonkeyPatch.context() as patch:
        path = runs.folder(tmp_path_factory.mktemp("unbroken"), patch)
    done = runs.train(path)
    assert done.returncode == 0, done.stderr
    assert not (path / "scratch").exists()
    found = runs.result(path)
    assert {f"snapshots/epoch{k}.safetensors" for k in (1, 2, 3)} < set(found)
    return found
