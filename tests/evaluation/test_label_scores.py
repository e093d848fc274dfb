"""Precision, recall and F1: scikit-learn is the oracle."""

import numpy as np
import pytest
from sklearn import metrics

from gptjax import evaluation


@pytest.mark.parametrize("missing", [None, 1])
def test_scores_are_scikit_learns(missing):
    """A label that is never given, or never true, has nothing to divide by."""
    rng = np.random.default_rng(1)
    true, given = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    if missing is not None:
        true[true == missing], given[given == 2] = 0, 3
    counts = metrics.confusion_matrix(true, given, labels=range(4))
    ours = evaluation.label_scores("abcd", counts.tolist())
    wanted = metrics.precision_recall_fscore_support(
        true, given, labels=range(4), zero_division=0
    )
    got = np.array([(s.precision, s.recall, s.f1, s.texts) for s in ours.values()])
    np.testing.assert_allclose(got.T, wanted, rtol=1e-12)
    mean = evaluation.weighted_scores(ours)
    wanted = metrics.precision_recall_fscore_support(
        true, given, labels=range(4), average="weighted", zero_division=0
    )
    np.testing.assert_allclose((mean.precision, mean.recall, mean.f1), wanted[:3])
