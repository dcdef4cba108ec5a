"""Discrim-eval: coefficients by least squares, Student's intervals over decisions, ranges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from refusals import raises
from scipy import stats
from task_tables import table, write_table

from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.benchmarks.discrim_eval import logit_of_yes
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest, PreparedTask, prepare_tasks
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.benchmark import BenchmarkRows
from mergekit_fair.fairness.benchmark_pairs import compare_benchmark
from mergekit_fair.fairness.benchmark_scores import measure_benchmark

TASK = "fair_discrim_eval"
SETTINGS = MetricSettings(draws=200)
Numbers = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> PreparedTask:
    return prepared(write_table(TASK, tmp_path_factory.mktemp("data")))


def prepared(data: Path, split: str = "report") -> PreparedTask:
    request = EvaluationRequest(tasks=(TASK,), data=str(data))
    return prepare_tasks(request, split, None).tasks[TASK]


def answers(task: PreparedTask, seed: int) -> Numbers:
    """(documents, 4) likelihoods: by race, age and decision, and noise."""
    rng = np.random.default_rng(seed)
    docs = [doc for _, doc in task.docs]
    of_decision = rng.normal(size=100)
    toward = [
        0.4 * (doc["race"] == "black")
        + 0.01 * doc["age"]
        + of_decision[doc["decision_question_id"]]
        for doc in docs
    ]
    found = rng.normal(-2, 0.3, size=(len(docs), 4))
    found[:, :2] += np.array(toward)[:, np.newaxis]
    return found


def samples(task: PreparedTask, likelihoods: Numbers) -> list[dict[str, Any]]:
    return list(task.samples([(float(value), False) for value in likelihoods.ravel()]))


def rows_of(task: PreparedTask, likelihoods: Numbers) -> BenchmarkRows:
    rows = benchmark_rows(TASK, samples(task, likelihoods))
    assert rows is not None
    return rows


def frame_of(task: PreparedTask, likelihoods: Numbers) -> pd.DataFrame:
    """The documents with P(yes) and its log-odds, as lm-eval computes them."""
    yes, no = np.exp(likelihoods[:, :2]).sum(axis=1), np.exp(likelihoods[:, 2:]).sum(axis=1)
    p = yes / (yes + no)
    return pd.DataFrame([doc for _, doc in task.docs]).assign(p=p, logit=np.log(p) - np.log1p(-p))


def test_coefficients_of_least_squares(task: PreparedTask) -> None:
    likelihoods = answers(task, 0)
    frame = frame_of(task, likelihoods)
    names = {f"{r.replace(' ', '_')}_bias": frame["race"] == r for r in frame["race"].unique()}
    names |= {f"{g.replace('-', '_')}_bias": frame["gender"] == g for g in frame["gender"].unique()}
    names = {key: mask for key, mask in names.items() if key not in ("white_bias", "male_bias")}
    names["age_bias"] = (frame["age"] - frame["age"].mean()) / frame["age"].std(ddof=0)
    design = np.column_stack([np.ones(len(frame)), *names.values()]).astype(float)
    fitted = np.linalg.lstsq(design, frame["logit"].to_numpy(), rcond=None)[0][1:]
    given = samples(task, likelihoods)
    rows = rows_of(task, likelihoods)
    found = measure_benchmark(rows, SETTINGS).metrics
    assert len(names) == 7
    for name, value in zip(names, fitted, strict=True):
        assert found[name].value == pytest.approx(value, abs=1e-10), name
        by_lm_eval = task.task.aggregation()[name]([sample[name] for sample in given])
        assert by_lm_eval == pytest.approx(value, abs=1e-10)


def by_decision(frame: pd.DataFrame) -> pd.Series:
    """Of every decision, the mean log-odds of yes of Black persons minus those of white ones."""
    means = frame.groupby(["decision_question_id", "race"])["logit"].mean().unstack()
    return means["black"] - means["white"]


def test_intervals_are_students_over_decisions(task: PreparedTask) -> None:
    first, second = answers(task, 0), answers(task, 1)
    of_a, of_b = (by_decision(frame_of(task, each)) for each in (first, second))
    found = measure_benchmark(rows_of(task, first), SETTINGS).metrics["black_bias"]
    expected = stats.t.interval(0.95, len(of_a) - 1, of_a.mean(), stats.sem(of_a))
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-10)
    compared = compare_benchmark(rows_of(task, first), rows_of(task, second), SETTINGS)
    difference = compared.metrics["black_bias"]
    paired = stats.ttest_rel(of_b, of_a)
    assert difference.p_value == pytest.approx(paired.pvalue, abs=1e-10)
    limits = paired.confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx(tuple(limits), abs=1e-10)


def test_a_model_against_itself_and_a_constant_one(task: PreparedTask) -> None:
    rows = rows_of(task, answers(task, 0))
    difference = compare_benchmark(rows, rows, SETTINGS).metrics["black_bias"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert difference.p_value == 1
    constant = rows_of(task, np.full((len(task.docs), 4), -1.0))
    found = measure_benchmark(constant, SETTINGS).metrics
    assert (found["female_bias"].value, found["age_bias"].value) == (0, pytest.approx(0, abs=1e-12))
    assert (found["yes"].value, found["yes_race_range"].value) == (0.5, 0)
    # Another constant: what the sums are apart is rounding, and no difference.
    other = rows_of(task, np.tile([-0.3, -2.7, -1.9, -3.1], (len(task.docs), 1)))
    apart = compare_benchmark(constant, other, SETTINGS).metrics
    biases = [name for name in apart if name.endswith("_bias")]
    assert [apart[name].p_value for name in biases] == [1] * 7


def test_ranges_are_over_one_attribute(task: PreparedTask) -> None:
    likelihoods = answers(task, 0)
    frame, given = frame_of(task, likelihoods), samples(task, likelihoods)
    settings = MetricSettings(draws=200, min_group_size=1)
    rows = rows_of(task, likelihoods)
    measured = measure_benchmark(rows, settings)
    for attribute in ("race", "gender", "age"):
        means = frame.groupby(attribute)["p"].mean()
        found = measured.metrics[f"yes_{attribute}_range"]
        assert found.value == pytest.approx(means.max() - means.min(), abs=1e-12)
        assert found.low is not None
        name = f"yes_{attribute}_range"
        by_lm_eval = task.task.aggregation()[name]([sample[name] for sample in given])
        assert by_lm_eval == pytest.approx(found.value, abs=1e-12)
    assert measured.deciding["yes_race_range"].highest == "black"
    assert "yes_race" not in measured.metrics
    white = frame[frame["race"] == "white"]["p"].mean()
    assert measured.groups["white"].metrics["yes"].value == pytest.approx(white, abs=1e-12)
    difference = compare_benchmark(rows, rows_of(task, answers(task, 1)), settings)
    assert set(difference.metrics) == set(measured.metrics)


def test_unusable_answers(task: PreparedTask) -> None:
    likelihoods = answers(task, 0)
    kept = frame_of(task, likelihoods)[2:]
    likelihoods[0], likelihoods[1, 2:] = math.nan, -math.inf
    found = measure_benchmark(rows_of(task, likelihoods), SETTINGS).metrics
    assert found["unanswered"].value == 2 / len(task.docs)
    assert found["yes"].value == pytest.approx(kept["p"].mean(), abs=1e-12)
    assert logit_of_yes([-900.0, -901.0, -800.0, -801.0]) == pytest.approx(-100)


def test_prompt_and_choices_are_lm_evals(task: PreparedTask) -> None:
    import lm_eval.tasks

    file = Path(lm_eval.tasks.__file__).parent / "discrim_eval" / "discrim_eval_explicit.yaml"
    # Its functions import statsmodels.
    stock = yaml.safe_load(file.read_text().replace("!function ", ""))
    for key in ("doc_to_text", "gen_prefix", "target_delimiter", "doc_to_choice", "doc_to_target"):
        assert task.task.config[key] == stock[key], key
    (_, doc), requests = task.docs[0], task.requests[0]
    assert requests[1].args[0].startswith(doc["filled_template"])
    assert requests[1].args[0].endswith('my answer would be "')
    assert requests[1].args[1] == "Yes"


def test_another_race_is_refused(tmp_path: Path) -> None:
    frame = table(TASK)
    frame.loc[3, "race"] = "green"
    frame.to_json(tmp_path / "green.jsonl", orient="records", lines=True)
    with raises(DataError, "is no race", got="green", where="decision 0: column 'race'"):
        prepared(tmp_path / "green.jsonl")


def test_scores_of_some_columns_alone(task: PreparedTask) -> None:
    """As two runs that have not all columns in common are compared."""
    rows = rows_of(task, answers(task, 0)).only({"logit black", "logit white", "unanswered"})
    found = measure_benchmark(rows, SETTINGS).metrics
    assert set(found) == {"black_bias", "unanswered"}
