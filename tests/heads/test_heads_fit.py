"""Fair heads on made-up features, whose truth is known: what moves, how far, and what must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError
from mergekit_fair.evaluation.evaluate import counted
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.measure import estimate_table
from mergekit_fair.heads.directions import (
    GroupCell,
    cells_of,
    constant_direction,
    fit_directions,
    random_directions,
    spread_of_constant,
)
from mergekit_fair.heads.fair_head import FairHead, HeadSettings, fit_head, moves_of
from mergekit_fair.heads.fitting import (
    MUS,
    Half,
    at_level,
    fit_coefficients,
    folds,
    halves,
    soft_gap_change,
)
from mergekit_fair.heads.last_layer import FeatureRows, LastLayer
from mergekit_fair.heads.rival_heads import balanced_head, random_head, whole_layer

SETTINGS = MetricSettings(min_group_size=30)
SIZES = {"train": 1500, "validation": 900, "report": 6000}
WIDTH, GROUPS = 16, ("a", "b", "c")


def made(
    seed: int, *, known: float = 2.0, favoured: float = 0.4, overlap: float = 0.0
) -> dict[str, FeatureRows]:
    """Rows whose labels depend on features 0–7 alone; the scores on those, and on groups.

    Args:
        known: how well features tell the groups, in standard deviations; 0: not at all.
        favoured: how much the scores favour the first group over the last.
        overlap: chance of being in each further group.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for split, n in SIZES.items():
        members = np.eye(len(GROUPS), dtype=bool)[rng.integers(0, len(GROUPS), n)].T
        members |= rng.random(members.shape) < overlap
        features = rng.standard_normal((n, WIDTH)).astype(np.float32)
        features[:, -len(GROUPS) :] += known * members.T
        truth = 0.6 * features[:, :8].sum(axis=1)
        labels = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype(np.int8)
        scores = truth + favoured * (features[:, -len(GROUPS)] - features[:, -1])
        groups = dict(zip(GROUPS, members, strict=True))
        blank = Predictions("made", tuple(range(n)), labels, np.zeros(n, np.int8), groups, ())
        found[split] = FeatureRows(features, blank.with_scores(scores))
    return found


def figures(rows: Predictions) -> dict[str, float]:
    return estimate_table(counted(rows), SETTINGS)


def on_report(fair: FairHead, rows: dict[str, FeatureRows]) -> dict[str, float]:
    return figures(fair.moved(rows["report"]))


@pytest.fixture(scope="module")
def unfair() -> dict[str, FeatureRows]:
    return made(0)


@pytest.mark.parametrize("metric", ["eod", "dpd"])
def test_a_favoured_group_is_found_and_the_gap_goes(unfair: Any, metric: Any) -> None:
    fair = fit_head(unfair, SETTINGS, HeadSettings(metric), has_bias=True)
    before, after = figures(unfair["report"].rows), on_report(fair, unfair)
    assert fair.stays is None
    assert before[metric] > 0.25
    assert after[metric] < 0.12  # of other rows; what is left is mostly noise of three groups
    assert after["acc"] > before["acc"]  # labels do not depend on groups
    assert after["selection_rate"] == pytest.approx(before["selection_rate"], abs=0.03)


def test_without_a_bias_nothing_has_one(unfair: Any) -> None:
    fair = fit_head(unfair, SETTINGS, HeadSettings(), has_bias=False)
    assert fair.stays is None
    assert all(direction.bias == 0 for direction in fair.directions)
    # Features that are centred have no direction that is constant; the level is what is lost.
    assert on_report(fair, unfair)["eod"] < 0.15


def test_groups_that_overlap(unfair: Any) -> None:
    del unfair
    rows = made(1, overlap=0.3)
    assert (np.sum(list(rows["train"].rows.groups.values()), axis=0) > 1).any()
    fair = fit_head(rows, SETTINGS, HeadSettings(), has_bias=True)
    assert fair.stays is None
    assert on_report(fair, rows)["eod"] < 0.5 * figures(rows["report"].rows)["eod"]


@pytest.mark.parametrize("metric", ["eod", "dpd"])
@pytest.mark.parametrize(
    "truth", [{"known": 0.0, "favoured": 0.0}, {"known": 2.0, "favoured": 0.0}]
)
def test_a_head_stays_where_there_is_nothing_to_gain(truth: Any, metric: Any) -> None:
    """Groups that features do not tell, and a target that is fair: six samples of each."""
    moved = 0
    for seed in range(6):
        fair = fit_head(made(seed, **truth), SETTINGS, HeadSettings(metric), has_bias=True)
        moved += fair.stays is None
        assert (fair.coefficients == 0).all() == (fair.stays is not None)
    assert moved <= 1  # a test at 5 %


def test_a_cell_without_rows_has_no_direction_and_is_named(unfair: Any) -> None:
    train = unfair["train"]
    empty = train.rows.groups["c"] & (train.rows.labels == 1)
    rows = {**unfair, "train": train.take(~empty)}
    fair = fit_head(rows, SETTINGS, HeadSettings(), has_bias=True)
    assert fair.left_out == (GroupCell("c", 1),)
    assert [d.name for d in fair.directions] == ["a, 0", "a, 1", "b, 0", "b, 1", "c, 0", "constant"]
    assert fair.stays is None
    assert on_report(fair, rows)["eod"] < figures(rows["report"].rows)["eod"]


def test_features_that_tell_nothing_are_no_error(unfair: Any) -> None:
    flat = {
        name: FeatureRows(np.ones_like(each.features), each.rows) for name, each in unfair.items()
    }
    fair = fit_head(flat, SETTINGS, HeadSettings(), has_bias=True)
    assert fair.stays is not None
    assert np.isfinite(np.stack([d.weight for d in fair.directions])).all()


@pytest.mark.parametrize("mu", [1e-3, 1e6])
def test_any_mu_gives_finite_numbers_at_the_level(unfair: Any, mu: float) -> None:
    fair = fit_head(unfair, SETTINGS, HeadSettings(mu=mu), has_bias=True)
    assert [each.mu for each in fair.tried] == [0, mu]
    assert np.isfinite(fair.coefficients).all()
    if fair.stays is None:
        validation = unfair["validation"]
        moved = fair.moved(validation)
        assert moved.predicted.sum() == validation.rows.predicted.sum()


def test_mu_auto_stops_at_the_first_that_costs_too_much(unfair: Any) -> None:
    found = fit_head(unfair, SETTINGS, HeadSettings(tolerance=0.01), has_bias=True)
    acceptable = [each.acceptable for each in found.tried]
    assert [each.mu for each in found.tried] == [0, *MUS]
    costly = acceptable.index(False) if False in acceptable else len(acceptable)
    assert found.mu == found.tried[costly - 1].mu


def test_fewer_than_two_groups_cannot_have_a_gap(unfair: Any) -> None:
    fields = {"got": "'a':", "allowed": "100000", "fix": "min_group_size"}
    with raises(MeasurementError, "100000", **fields):
        fit_head(unfair, MetricSettings(min_group_size=100_000), HeadSettings(), has_bias=True)


def test_the_level_is_the_targets_to_the_row(unfair: Any) -> None:
    validation = unfair["validation"]
    directions = [*_probes(unfair), constant_direction(unfair["train"], has_bias=True)]
    moves = moves_of(directions, validation, SETTINGS)
    coefficients = fit_coefficients("eod", moves, SETTINGS, 4.0)
    wanted = validation.rows.predicted.sum()
    assert moves.moved(coefficients).predicted.sum() == wanted
    away = at_level(moves, coefficients + np.eye(len(coefficients))[-1])
    assert moves.moved(away).predicted.sum() == wanted


def test_weights_stand_for_rows(unfair: Any) -> None:
    weights = np.random.default_rng(0).integers(1, 3, SIZES["train"])
    train = unfair["train"]
    weighted = FeatureRows(train.features, replace(train.rows, weights=weights.astype(np.float64)))
    at = np.repeat(np.arange(len(weights)), weights)
    rows = train.rows
    repeated = FeatureRows(
        train.features[at],
        replace(
            rows,
            keys=tuple(range(len(at))),
            labels=rows.labels[at],
            predicted=rows.predicted[at],
            groups={name: mask[at] for name, mask in rows.groups.items()},
            logit_gaps=rows.scores[at],
        ),
    )
    cells = cells_of("eod", GROUPS)
    scaled = [fit_directions(each, cells, has_bias=True)[0] for each in (weighted, repeated)]
    for one, other in zip(*scaled, strict=True):
        # Standardised by unweighted and by weighted moments: nearly the same penalty.
        cosine = one.weight @ other.weight / np.linalg.norm(one.weight)
        assert cosine / np.linalg.norm(other.weight) > 0.99


def test_folds_keep_clusters_together(unfair: Any) -> None:
    rows = unfair["validation"].rows
    clusters = np.arange(len(rows)) // 3
    for fitted, left_out in folds(replace(rows, clusters=clusters), seed=0):
        assert not set(clusters[fitted]) & set(clusters[left_out])
        assert (fitted ^ left_out).all()


def test_the_soft_change_is_0_of_a_model_and_itself(unfair: Any) -> None:
    validation = unfair["validation"]
    directions = [constant_direction(unfair["train"], has_bias=True)]
    moves = moves_of(directions, validation, SETTINGS)
    every = np.ones(len(validation.rows), dtype=bool)
    half = Half(every, moves, validation.rows)
    assert soft_gap_change("eod", validation.rows, [half], 0) == (0.0, 0.0)


def test_random_directions_gain_less_than_those_of_the_groups(unfair: Any) -> None:
    head = HeadSettings()
    fair = fit_head(unfair, SETTINGS, head, has_bias=True)
    drawn = random_head(fair, unfair, SETTINGS, head)
    spreads = [d.of(unfair["train"].features).std() for d in drawn.directions[:-1]]
    assert spreads == pytest.approx([1.0] * len(spreads), rel=1e-5)
    assert on_report(drawn, unfair)["eod"] > 2 * on_report(fair, unfair)["eod"]
    again = random_directions(fair.directions[:-1], unfair["train"], seed=head.seed + 1)
    assert all((a.weight == b.weight).all() for a, b in zip(again, drawn.directions, strict=False))


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_balanced_refit_is_what_stands_beside_the_target(unfair: Any, has_bias: bool) -> None:
    weight = np.zeros((2, WIDTH))
    weight[1, :8] = 0.6
    weight[1, -3], weight[1, -1] = 0.4, -0.4
    layer = LastLayer("classifier", weight, np.zeros(2) if has_bias else None, (0, 1))
    assert layer.gaps(unfair["report"].features) == pytest.approx(
        unfair["report"].rows.scores, abs=1e-5
    )
    added = balanced_head(unfair, SETTINGS, layer=layer, seed=0)
    report = unfair["report"]
    moved = report.rows.with_scores(report.rows.scores + added.of(report.features))
    assert figures(moved)["acc"] > figures(report.rows)["acc"] - 0.02
    assert (added.bias == 0) == (not has_bias)


def _probes(rows: dict[str, FeatureRows]) -> list[Any]:
    return fit_directions(rows["train"], cells_of("eod", GROUPS), has_bias=True)[0]


def test_the_vector_adds_the_direction_to_the_gap() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5, 4))
    layer = LastLayer("score", rng.standard_normal((2, 4)), None, (1, 0))  # yes is class 0
    weight = rng.standard_normal(4)
    tensors = layer.vector(weight, 0.0)
    assert list(tensors) == ["score.weight"]
    moved = LastLayer("score", layer.weight + tensors["score.weight"], None, (1, 0))
    assert moved.gaps(features) == pytest.approx(layer.gaps(features) + features @ weight)


def with_rows(rows: dict[str, FeatureRows], change: Any, *splits: str) -> dict[str, FeatureRows]:
    """The same features, and rows that `change` has made of theirs."""
    return {
        name: FeatureRows(each.features, change(each.rows) if name in splits else each.rows)
        for name, each in rows.items()
    }


def test_equal_weights_are_no_weights(unfair: Any) -> None:
    """The probes' penalty does not depend on the unit of the weights."""
    cells = cells_of("eod", GROUPS)
    plain, _ = fit_directions(unfair["train"], cells, has_bias=True)
    for unit in (1e-6, 1e6):
        train = unfair["train"]
        weights = np.full(len(train.rows), unit)
        weighted = FeatureRows(train.features, replace(train.rows, weights=weights))
        found, _ = fit_directions(weighted, cells, has_bias=True)
        for one, other in zip(found, plain, strict=True):
            assert one.weight == pytest.approx(other.weight, rel=1e-3, abs=1e-4)  # of a solver


def test_a_direction_that_is_not_constant_keeps_the_level(unfair: Any) -> None:
    """Features with mean 0: what stands for the constant moves half the rows backwards."""
    directions = [*_probes(unfair), constant_direction(unfair["train"], has_bias=False)]
    validation = unfair["validation"]
    moves = moves_of(directions, validation, SETTINGS)
    assert (moves.moves[-1] < 0).mean() > 0.1
    coefficients = fit_coefficients("eod", moves, SETTINGS, 4.0)
    assert moves.moved(coefficients).predicted.sum() == validation.rows.predicted.sum()


def test_how_constant_a_constant_is(unfair: Any) -> None:
    """Nothing of features around 0; nearly all of those that lie off the origin."""
    train, validation = unfair["train"], unfair["validation"]
    assert spread_of_constant(train, validation, has_bias=True) == 0
    assert spread_of_constant(train, validation, has_bias=False) > 0.25
    off = [FeatureRows(each.features + 9, each.rows) for each in (train, validation)]
    assert spread_of_constant(*off, has_bias=False) < 0.1


@pytest.mark.parametrize("selected", [0, 1])
def test_a_target_that_predicts_always_the_same_is_kept(unfair: Any, selected: int) -> None:
    scores = np.full(SIZES["validation"], 2.0 * selected - 1)
    rows = with_rows(unfair, lambda each: each.with_scores(scores), "validation")
    fair = fit_head(rows, SETTINGS, HeadSettings(mu=1.0), has_bias=True)
    assert fair.stays is not None
    assert "no gap" in fair.stays


def test_groups_that_nearly_no_two_rows_share_do_not_stop_the_folds(unfair: Any) -> None:
    rows = unfair["validation"].rows.take(np.arange(SIZES["validation"]) < 200)
    rng = np.random.default_rng(0)
    many = {f"g{number}": rng.random(200) < 0.5 for number in range(14)}
    parts = folds(replace(rows, groups=many), seed=0)
    assert (np.sum([left_out for _, left_out in parts], axis=0) == 1).all()


def test_few_clusters_cannot_be_folded(unfair: Any) -> None:
    rows = with_rows(
        unfair, lambda each: replace(each, clusters=np.arange(len(each)) % 4), "validation"
    )
    with raises(MeasurementError, where="made", got="4"):
        fit_head(rows, SETTINGS, HeadSettings(), has_bias=True)


@pytest.mark.parametrize("seed", [2**32 - 1, 2**40])
def test_any_seed_gives_folds(unfair: Any, seed: int) -> None:
    rows = unfair["validation"].rows
    parts = [folds(rows, seed + split, 2) for split in range(2)]
    assert (parts[0][0][1] != parts[1][0][1]).any()


def test_a_group_without_rows_in_a_half_has_no_rate_there(unfair: Any) -> None:
    """All of a group in one cluster: the half that misses it sees the gap of the others."""

    def together(rows: Predictions) -> Predictions:
        return replace(rows, clusters=np.where(rows.groups["c"], -1, np.arange(len(rows))))

    rows = with_rows(unfair, together, "validation")["validation"]
    directions = [*_probes(unfair), constant_direction(unfair["train"], has_bias=True)]
    moves = moves_of(directions, rows, SETTINGS)
    parts = halves("eod", moves, SETTINGS, 0.0, seed=0)
    for half in parts:
        present = [name for name in GROUPS if half.moves.rows.groups[name].any()]
        figures_of = replace(SETTINGS, min_group_size=1)
        expected = estimate_table(counted(half.moves.rows), figures_of)["eod"]
        if len(present) == 2:
            chances = (half.moves.rows.predicted == 1).astype(float)
            assert half.moves.gap("eod", chances) == pytest.approx(expected)
    missing = [half for half in parts if not half.moves.rows.groups["c"].any()]
    assert missing
    # The target's own scores, once more: no change, however the rows are drawn.
    assert soft_gap_change("eod", rows.rows, parts, 0) == (0.0, 0.0)
    fitted = [each.left_out for each in missing]
    assert np.isfinite(fit_coefficients("eod", moves.take(fitted[0]), SETTINGS, 2.0)).all()
    fair = fit_head({**unfair, "validation": rows}, SETTINGS, HeadSettings(mu=2.0), has_bias=True)
    assert fair.stays is None


def test_a_refit_on_rows_of_one_label_predicts_it(unfair: Any) -> None:
    layer = LastLayer("classifier", np.ones((2, WIDTH)) * [[-0.5], [0.5]], np.zeros(2), (0, 1))
    ones = with_rows(unfair, lambda each: replace(each, labels=np.ones_like(each.labels)), *SIZES)
    added = balanced_head(ones, SETTINGS, layer=layer, seed=0)
    features = unfair["validation"].features
    assert (layer.gaps(features) + added.of(features) > 0).all()


def test_features_of_any_size(unfair: Any) -> None:
    """Squares of features of 1e20 are more than float32 holds."""
    layer = LastLayer("classifier", np.zeros((2, WIDTH)), np.zeros(2), (0, 1))
    huge = {name: FeatureRows(each.features * 1e20, each.rows) for name, each in unfair.items()}
    one, other = (balanced_head(rows, SETTINGS, layer=layer, seed=0) for rows in (huge, unfair))
    assert one.weight * 1e20 == pytest.approx(other.weight, rel=1e-3, abs=1e-3)


def test_the_whole_layer_comes_near_the_probes(unfair: Any) -> None:
    head = HeadSettings()
    fair = fit_head(unfair, SETTINGS, head, has_bias=True)
    whole = whole_layer(fair, unfair, SETTINGS, head)
    assert (whole.directions[0].weight != 0).all()
    found, before = figures(whole.moved(unfair["report"])), figures(unfair["report"].rows)
    assert found["eod"] < 0.6 * before["eod"]
    assert found["acc"] > before["acc"] - 0.01
    assert whole.moved(unfair["validation"]).predicted.sum() == (
        unfair["validation"].rows.predicted.sum()
    )


def test_rows_without_an_answer_count_for_nothing(unfair: Any) -> None:
    """A text of no tokens has no features: what is fitted is what the other rows give."""
    head = HeadSettings(mu=2.0)
    empty = {name: np.arange(len(each.rows)) % 7 == 0 for name, each in unfair.items()}
    found = {}
    for kind in ("empty", "absent"):
        rows = {}
        for name, each in unfair.items():
            scores = np.where(empty[name], np.nan, each.rows.scores)
            features = np.where(empty[name][:, np.newaxis], np.nan, each.features)
            holed = FeatureRows(features.astype(np.float32), each.rows.with_scores(scores))
            rows[name] = holed if kind == "empty" else holed.take(~empty[name])
        fair = fit_head(rows, SETTINGS, head, has_bias=True)
        whole = whole_layer(fair, rows, SETTINGS, head)
        found[kind] = [whole.directions[0].weight, *(each.weight for each in fair.directions)]
    for one, other in zip(*found.values(), strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-9)  # sums in other blocks


def test_a_group_may_be_called_constant() -> None:
    names = [str(cell) for cell in cells_of("dpd", ["constant", "other"])]
    assert names == ["group constant", "other"]
