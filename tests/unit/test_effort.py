"""What an image costs on a routed network: shares have an entry for every expert, used or not."""

from types import SimpleNamespace

import numpy as np

from lt.stages.evaluate import effort_of


def test_experts_that_no_image_needed_have_a_share_of_zero() -> None:
    opened = SimpleNamespace(manifest={"num_experts": 4, "gmacs": None})
    stored = {"experts": np.array([1, 1, 2, 1]), "labels": np.array([0, 1, 2, 0])}
    found = effort_of(opened, stored, np.array([0, 1, 2]))
    assert found["experts"] == 1.25
    assert found["experts_used"]["all"] == [0.75, 0.25, 0.0, 0.0]
    assert found["experts_used"]["many"] == [1.0, 0.0, 0.0, 0.0]
    assert found["experts_used"]["few"] == [0.0, 1.0, 0.0, 0.0]
