"""The surrogate: it fits rates, composes metrics as they are defined, and finds the front."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from search_landscape import GROUPS, RULE, SPACE, evaluation, failed, measure, search

from mergekit_fair.errors import SweepError
from mergekit_fair.sweep.limits import Limit
from mergekit_fair.sweep.search.pareto import front, hypervolume
from mergekit_fair.sweep.search.proposers import (
    Observation,
    Proposer,
    RandomProposer,
    feasible_front,
)
from mergekit_fair.sweep.search.rate_model import (
    COMPOSED,
    GroupLayout,
    RateModel,
    composed,
    expit,
    fit,
    terms,
)
from mergekit_fair.sweep.search.surrogate import SurrogateProposer, chosen
from mergekit_fair.sweep.selection import Rule

RNG = np.random.default_rng


def volume(history: list[Observation]) -> float:
    found = [seen.objectives for seen in feasible_front(history)]
    return hypervolume(np.array(found).reshape(-1, 3), (1.0, 1.0, 1.0))


def model(rule: Rule, history: list[Observation], groups: GroupLayout = GROUPS) -> RateModel:
    found = RateModel.of(SPACE, rule, groups, history)
    assert found is not None
    return found


def test_after_30_points_the_front_is_larger_than_by_chance() -> None:
    def volumes(proposers: list[Proposer]) -> list[float]:
        return [volume(search(proposer, 30, size=2)) for proposer in proposers]

    ours = volumes(
        [SurrogateProposer(SPACE, RULE, seed, GROUPS, candidates=200) for seed in range(5)]
    )
    chance = volumes([RandomProposer(SPACE, seed) for seed in range(5)])
    # Every single run, not only their mean; and better than 500 random points.
    assert min(ours) > max(chance)
    assert min(ours) > volume([measure(x) for x in SPACE.random(500, RNG(0))])


def test_the_number_of_terms_follows_the_number_of_points() -> None:
    points = RNG(0).uniform(-1, 1, (2, 3))
    assert [terms(points, n).shape[1] for n in (1, 6, 7, 9, 10, 99)] == [4, 4, 7, 7, 10, 10]


def test_a_quadratic_logit_is_recovered() -> None:
    rng = RNG(0)
    points = rng.uniform(-1, 1, (40, 3))
    beta = np.array([-0.5, 1.0, -0.7, 0.2, 0.5, -0.4, 0.3, 0.6, -0.2, 0.1])
    rates = expit(terms(points, 40) @ beta)
    exact = fit(terms(points, 40), SPACE, rates, np.full(40, 1e7))
    assert exact.mean == pytest.approx(beta, abs=1e-3)
    rows = np.full(40, 300.0)
    noisy = fit(terms(points, 40), SPACE, rng.binomial(300, rates) / rows, rows)
    draws = np.stack([noisy.draw(rng) for _ in range(400)])
    # The posterior is about as wide as it is wrong.
    score = (draws.mean(axis=0) - beta) / draws.std(axis=0)
    assert np.abs(score).max() < 3.5
    assert 0.4 < noisy.dispersion < 2.0


def test_few_points_leave_the_prior_wide_and_extreme_rates_are_finite() -> None:
    points = RNG(0).uniform(-1, 1, (2, 3))
    found = fit(terms(points, 2), SPACE, np.array([0.0, 1.0]), np.array([50.0, 50.0]))
    assert np.isfinite(found.mean).all()
    draws = np.stack([found.draw(RNG(seed)) for seed in range(200)])
    assert draws[:, 1:].std(axis=0).min() > 1.0


def _with(groups: GroupLayout, name: str) -> float:
    """The metric `name` at a point, as the model composes it from that point's own rates."""
    seen = measure((0.3, 0.6, 0.4), Rule())
    blocks: list[Any] = [*seen.groups.values(), *(() if groups.is_partition else (seen.overall,))]
    rates = np.array([[[b["selection_rate"], b["tpr"], b["fpr"]] for b in blocks]])
    return float(composed(rates, model(Rule(), [seen], groups).lines)[name][0])


@pytest.mark.parametrize("partition", [True, False])
@pytest.mark.parametrize("name", ["acc", "selection_rate", "tpr", "fpr", "dpd", "eod"])
def test_metrics_are_composed_as_they_are_measured(name: str, partition: bool) -> None:
    expected = evaluation((0.3, 0.6, 0.4))["metrics"][name]["value"]
    assert _with(GroupLayout(is_partition=partition), name) == pytest.approx(expected, abs=1e-12)


def test_other_metrics_and_deciding_groups() -> None:
    groups = evaluation((0.3, 0.6, 0.4))["groups"]
    metrics = evaluation((0.3, 0.6, 0.4))["metrics"]
    balanced = (metrics["tpr"]["value"] + 1 - metrics["fpr"]["value"]) / 2
    every, two = GroupLayout(), GroupLayout(deciding=("a", "b"))
    assert _with(every, "bal_acc") == pytest.approx(balanced)
    assert _with(every, "worst_group_acc") == pytest.approx(min(g["acc"] for g in groups.values()))
    for name, key in (("dpd", "selection_rate"), ("equal_opportunity", "tpr")):
        assert _with(two, name) == pytest.approx(abs(groups["a"][key] - groups["b"][key]))
    assert math.isnan(_with(GroupLayout(deciding=("a",)), "dpd"))
    assert {"acc", "dpd", "eod"} <= set(COMPOSED)


def test_rates_of_few_rows_decide_no_gap() -> None:
    """Positive rows are 400, 300, 250; negative ones 600, 500, 750."""
    groups = evaluation((0.3, 0.6, 0.4))["groups"]
    layout = GroupLayout(least=260)  # a group's TPR is left out, but not its other rates
    tpr, fpr = ({name: block[key] for name, block in groups.items()} for key in ("tpr", "fpr"))
    assert _with(layout, "equal_opportunity") == pytest.approx(abs(tpr["a"] - tpr["b"]))
    widest = max(fpr.values()) - min(fpr.values())
    assert _with(layout, "eod") == pytest.approx(max(abs(tpr["a"] - tpr["b"]), widest))
    assert _with(layout, "dpd") == pytest.approx(_with(GroupLayout(), "dpd"))
    assert math.isnan(_with(GroupLayout(least=350), "eod"))


def test_a_fitted_model_predicts_new_points() -> None:
    history = [measure(x) for x in SPACE.sobol(30, 0)]
    new = SPACE.sobol(60, 0)[30:]
    predicted, _ = model(RULE, history).mean().predict(new)
    errors = np.abs(predicted - np.array([measure(x).objectives for x in new]))
    assert errors.mean() < 0.02


def _without_positives(seen: Observation, *names: str) -> Observation:
    groups = {name: dict(block) for name, block in seen.groups.items()}
    for name in names:
        groups[name] |= {"n": groups[name]["n"], "n_pos": 0, "tpr": None, "fpr": 0.5}
    return dataclasses.replace(seen, groups=groups)


def test_half_an_eod_is_none() -> None:
    history = [_without_positives(measure(x), "b", "c") for x in SPACE.sobol(12, 0)]
    found = model(Rule(), history).draw(RNG(0))
    assert np.isnan(composed(found.rates(SPACE.sobol(5, 1)), found.model.lines)["eod"]).all()
    assert np.isinf(found.predict(SPACE.sobol(5, 1))[1]).all()


def test_undefined_rates_are_left_out() -> None:
    history = [_without_positives(measure(x), "c") for x in SPACE.sobol(12, 0)]
    found = model(Rule(), history).draw(RNG(0))
    rates = found.rates(SPACE.sobol(5, 1))
    assert np.isnan(rates[:, 2, 1]).all()
    assert np.isfinite(rates[:, :2]).all()
    objectives, violation = found.predict(SPACE.sobol(5, 1))
    assert np.isfinite(objectives).all()
    assert (violation == 0).all()


def test_predicted_constants_are_infinitely_far() -> None:
    def rejecting(seen: Observation) -> Observation:
        low = {"selection_rate": 0.001, "tpr": 0.002, "fpr": 0.001}
        return dataclasses.replace(
            seen, groups={name: {**block, **low} for name, block in seen.groups.items()}
        )

    history = [rejecting(measure(x)) for x in SPACE.sobol(20, 0)]
    _, violation = model(RULE, history).mean().predict(SPACE.sobol(20, 0))
    assert np.isinf(violation).all()


def test_failed_points_count_but_teach_nothing() -> None:
    proposer = SurrogateProposer(SPACE, RULE, candidates=50)
    broken = [failed(x) for x in SPACE.sobol(9, 0)]
    asked = proposer.ask(broken, 3)
    assert len(set(asked)) == 3
    assert not set(asked) & {seen.x for seen in broken}
    assert RateModel.of(SPACE, RULE, GROUPS, broken) is None
    mixed = [*broken[:4], *(measure(seen.x) for seen in broken[4:])]
    assert len(proposer.ask(mixed, 1)) == 1


def test_overlapping_groups_need_overall_rates() -> None:
    history = [dataclasses.replace(measure(x), overall={}) for x in SPACE.sobol(9, 0)]
    with pytest.raises(SweepError, match="the rates over all rows are needed"):
        SurrogateProposer(SPACE, Rule()).ask(history, 1)
    assert SurrogateProposer(SPACE, Rule(), 0, GROUPS, candidates=50).ask(history, 1)


def test_the_choice_among_candidates() -> None:
    objectives = np.array([[0.5, 0.5], [0.1, 0.9], [0.0, 0.0], [0.6, 0.6]])
    violation = np.array([0.0, 0.0, 0.3, 0.0])
    assert chosen(objectives, violation, []) == 0  # 0.25 against 0.09; the third is infeasible
    assert chosen(objectives, violation, [np.array([0.45, 0.45])]) == 1
    # Nothing adds anything: the one that misses the front by least.
    assert chosen(objectives, violation, [np.array([0.4, 0.0]), np.array([0.05, 0.5])]) == 1
    assert chosen(objectives, np.array([0.4, 0.3, 0.2, np.inf]), []) == 2


def test_it_works_its_way_to_the_feasible_region() -> None:
    rule = dataclasses.replace(RULE, limits=(Limit("acc", ">=", 0.71),))

    def hits(proposer: Proposer) -> int:
        return sum(seen.feasible for seen in search(proposer, 24, size=4, rule=rule))

    seeds = range(3)
    found = [hits(SurrogateProposer(SPACE, rule, seed, GROUPS, candidates=200)) for seed in seeds]
    assert sum(found) >= 3 * 8
    assert min(found) > max(hits(RandomProposer(SPACE, seed)) for seed in seeds)


def test_the_predicted_front_is_near_the_true_one() -> None:
    history = [measure(x) for x in SPACE.sobol(30, 0)]
    candidates = SPACE.random(500, RNG(0))
    objectives, violation = model(RULE, history).mean().predict(candidates)
    feasible = np.flatnonzero(violation == 0)
    points = [candidates[index] for index in feasible[front(objectives[feasible])]]
    truth = volume([measure(x) for x in SPACE.random(500, RNG(1))])
    assert volume([measure(x) for x in points]) > 0.95 * truth
