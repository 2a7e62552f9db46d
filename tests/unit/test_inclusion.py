"""The data of the figure `inclusion`: frequencies around exact probabilities, ordered by p as the kernels say."""

import numpy as np
import pytest

from lt import rng
from lt.errors import UserError
from lt.figures import FIGURES
from lt.sampling.inclusion import against_p


def test_frequencies_and_probabilities(tmp_path):
    p, k, draws = np.linspace(0.05, 0.98, 60), 12, 400
    frequency, probability = against_p(p, k, draws=draws, source=rng.stream(0, "subset", "figure"))
    assert set(frequency) == set(probability) == {"code kernel", "paper kernel", "uniform"}
    for name, exact in probability.items():
        assert exact.sum() == pytest.approx(k)
        assert frequency[name].sum() == pytest.approx(k)
        error = (frequency[name] - exact) / np.sqrt(exact * (1 - exact) / draws)
        assert np.abs(error).max() < 4.5
    paper, code = probability["paper kernel"], probability["code kernel"]
    assert (np.diff(paper) < 0).all() and paper[0] / paper[-1] > 1.5
    assert code.max() / code.min() < 1.05
    FIGURES["inclusion"](tmp_path / "inclusion.svg", p, frequency, expected=probability)
    assert (tmp_path / "inclusion.svg").stat().st_size > 1000


@pytest.mark.parametrize(("k", "draws", "words"), [(0, 5, "k is 0"), (4, 5, "k is 4 of 4"), (2, 0, "0 draws")])
def test_refusals(k, draws, words):
    with pytest.raises(UserError, match=words):
        against_p(np.full(4, 0.5), k, draws=draws, source=np.random.default_rng(0))
