"""Level matching: the nearest reachable selection rate, equal scores never split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness import matching_threshold, predict_at


def share(scores, rate):
    return predict_at(scores, matching_threshold(scores, rate)).mean()


def test_by_hand():
    scores = [0.1, 0.4, 0.4, 0.9]
    assert matching_threshold(scores, 0.25) == 0.9
    assert matching_threshold(scores, 0.75) == 0.4
    assert matching_threshold(scores, 0.5) == 0.9  # 1 or 3 of 4, equally near: the lower
    assert predict_at(scores, 0.4).tolist() == [0, 1, 1, 1]
    assert predict_at(scores, 0.4).dtype == np.int8


@given(
    st.lists(st.integers(-3, 3).map(lambda k: k / 7), min_size=1, max_size=20), st.floats(0, 1)
)  # fmt: skip
def test_no_other_threshold_is_nearer(scores, rate):
    reachable = [np.mean(np.array(scores) >= t) for t in (*scores, np.inf)]
    nearest = min(abs(r - rate) for r in reachable)
    assert abs(share(scores, rate) - rate) == pytest.approx(nearest, abs=1e-12)


def test_all_and_none():
    scores = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert share(scores, 0.0) == 0.0
    assert share(scores, 1.0) == 1.0
    assert share(scores, 0.3) == pytest.approx(0.3)
    assert share([0.5] * 4, 0.4) == 0.0
    assert share([0.5] * 4, 0.6) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: matching_threshold([0.1, np.nan], 0.5),
            "scores: row 1 is not finite; got nan; allowed: finite numbers. Look for overflow in "
            "the merged weights, or drop the row.",
        ),
        (
            lambda: predict_at([np.inf], 0.5),
            "scores: row 0 is not finite; got inf; allowed: finite numbers. Look for overflow in "
            "the merged weights, or drop the row.",
        ),
        (lambda: matching_threshold([0.1], 1.5), "rate: must lie in [0, 1]; got 1.5."),
        (lambda: matching_threshold([0.1], float("nan")), "rate: must lie in [0, 1]; got nan."),
        (lambda: predict_at([0.1], float("nan")), "threshold: is NaN. Use matching_threshold."),
        (lambda: matching_threshold([], 0.5), "scores: there are no rows. Check the split."),
        (
            lambda: matching_threshold([[0.1, 0.9]], 0.5),
            "scores: needs one score per row; got 'shape (1, 2)'; allowed: shape (n,). Pass the "
            "score of the positive class.",
        ),
        (
            lambda: matching_threshold(["high"], 0.5),
            "scores: must be numbers. Pass the score of the positive class.",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(MeasurementError) as caught:
        call()
    assert str(caught.value) == message
