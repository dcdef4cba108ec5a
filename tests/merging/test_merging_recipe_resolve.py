"""`worst: auto` and FedNova's steps come from measured files, and what was found is said."""

import copy
import json

import pytest
from refusals import raises

from mergekit_fair.errors import MeasurementError, RecipeError
from mergekit_fair.merging.recipe import Recipe

GROUPS = ("Female", "Male", "Other")


def evaluation(split="validation", sizes=(100, 200, 50), **gaps):
    """One-vs-rest DPD and EOD by group; None for a rate that is undefined."""
    gaps = {"Female": (0.1, 0.3), "Male": (0.1, 0.2), "Other": (0.9, 0.9)} | gaps
    return {
        "split": split,
        "n": 2 * sum(sizes),
        "n_pos": sum(sizes),
        "groups": {
            name: {"n": 2 * size, "n_pos": size} for name, size in zip(GROUPS, sizes, strict=True)
        },
        "one_vs_rest": {
            "groups": {name: {"dpd": dpd, "eod": eod} for name, (dpd, eod) in gaps.items()}
        },
    }


def injection(report, **fairness):
    models = [{"model": "run/fft", "parameters": {"role": "target"}}]
    models += [
        {"model": f"run/{name}", "parameters": {"role": "candidate", "group": name}}
        for name in GROUPS
    ]
    return {
        "merge_method": "worst_group_injection",
        "base_model": "run/base",
        "models": models,
        "parameters": {"lambda": 0.2, "worst": "auto"},
        "fairness": {"report": str(report), **fairness},
    }


@pytest.fixture
def report(tmp_path):
    def write(content, name="eval.json"):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def resolve(raw):
    return Recipe.from_mapping(raw, "r.yml").resolved()


def test_the_group_with_the_largest_mean_gap(report):
    place = report(evaluation())
    raw = injection(place)
    before = copy.deepcopy(raw)
    found = resolve(raw)
    assert raw == before
    assert found.raw["parameters"] == {"lambda": 0.2, "worst": "Female"}
    assert "worst: Female" in found.source
    assert found.notes == (
        f"worst: Female, whose mean of one-vs-rest DPD and EOD, 0.2000, is the largest in {place}",
        "left out: Other (excluded, without a rate, or with one of fewer than 30 rows, "
        "of the group or of its rest)",
    )
    # What was found is a plain recipe: mergekit runs it, and there is nothing left to find.
    assert found.resolved() is found


def test_groups_are_left_out_by_name_by_size_and_without_a_rate(report):
    place = report(evaluation())
    assert resolve(injection(place, exclude=[])).raw["parameters"]["worst"] == "Other"
    small = resolve(injection(place, exclude=[], min_group_size=60))
    assert small.raw["parameters"]["worst"] == "Female"
    assert resolve(injection(place, min_group_size=150)).raw["parameters"]["worst"] == "Male"
    unknown = report(evaluation(Female=(None, None)), "unknown.json")
    found = resolve(injection(unknown))
    assert found.raw["parameters"]["worst"] == "Male"
    assert "left out: Female, Other (" in found.notes[-1]
    with pytest.raises(MeasurementError, match="rest on 1000 rows or more"):
        resolve(injection(place, min_group_size=1000))


def test_ties_are_said_aloud(report):
    found = resolve(injection(report(evaluation(Male=(0.3, 0.1)))))
    assert found.raw["parameters"]["worst"] == "Female"
    assert found.notes[1] == "Male ties with Female, which comes first by name"


def test_a_choice_on_the_report_split_is_marked(report):
    found = resolve(injection(report(evaluation(split="report"))))
    assert found.notes[-1] == (
        "the worst group was chosen on the report split, which is then not untouched"
    )


def test_a_sweeps_results_hold_the_evaluation_of_the_target(report):
    lines = [
        {"kind": "merge", "label": "fft", "evaluation": evaluation(Male=(1.0, 1.0))},
        {"kind": "baseline", "label": "fft", "evaluation": evaluation()},
        {"kind": "baseline", "label": "lora", "evaluation": evaluation(Male=(1.0, 1.0))},
    ]
    place = report({"points": lines}, "results.json")
    raw = injection(place)
    assert resolve(raw).raw["parameters"]["worst"] == "Female"
    raw["models"][0]["model"] = "other/lora"
    assert resolve(raw).raw["parameters"]["worst"] == "Male"
    raw["models"][0]["model"] = "other/sft"
    with pytest.raises(RecipeError) as caught:
        resolve(raw)
    assert str(caught.value) == (
        f"{place}: these results have no baseline with the name of the target's folder; got "
        "'sft'; allowed: fft, lora."
    )


@pytest.mark.parametrize("content", ["[]", "{}", '{"one_vs_rest": {}}', "3", '{"points": [{}]}'])
def test_files_without_an_evaluation(report, content):
    with pytest.raises(RecipeError) as caught:
        resolve(injection(report(content)))
    assert "holds no evaluation" in str(caught.value) or "no baseline" in str(caught.value)


def test_files_that_cannot_be_read(report, tmp_path):
    for path in (report("{"), tmp_path / "nothing.json"):
        with raises(RecipeError, where=path, fix="results.json"):
            resolve(injection(path))


@pytest.mark.parametrize(
    ("fairness", "text"),
    [
        (
            {"report": None},
            "r.yml: worst: auto needs fairness.report, the file of an evaluation. Write fairness: "
            "{report: FILE}, or name the group.",
        ),
        (
            {"min_group_size": 0},
            "r.yml: fairness.min_group_size: must be a number of rows, 1 or more; got 0.",
        ),
        (
            {"exclude": "other"},
            "r.yml: fairness.exclude: must be a list of groups; got 'other'.",
        ),
        (
            {"min_group": 5},
            "r.yml: fairness: unknown key 'min_group'; did you mean 'min_group_size'?; allowed: "
            "report, min_group_size, exclude, tool, task, rule, selected_on, feasible, validation, "
            "not_chosen, point, kind, measuring, inputs, random_seed.",
        ),
    ],
)
def test_what_auto_needs_is_checked_before(fairness, text):
    raw = injection("eval.json")
    raw["fairness"] |= fairness
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(raw, "r.yml")
    assert str(caught.value) == text


def fednova(folder, **steps):
    models = [
        {"model": str(folder / "groups" / name), "parameters": {"group": name}} for name in GROUPS
    ]
    for item in models:
        name = item["parameters"]["group"]
        if name in steps:
            item["parameters"]["steps"] = steps[name]
    return {"merge_method": "fednova", "base_model": str(folder / "base"), "models": models}


def test_steps_come_from_the_training_record(tmp_path):
    runs = {f"groups/{name}": {"steps": 10 * (index + 1)} for index, name in enumerate(GROUPS)}
    place = tmp_path / "train.json"
    place.write_text(json.dumps({"runs": runs}))
    found = resolve(fednova(tmp_path, Male=7))
    given = [item["parameters"]["steps"] for item in found.raw["models"]]
    assert given == [10.0, 7, 30.0]
    assert found.notes == (
        f"steps of Female: 10 (from {place})",
        f"steps of Other: 30 (from {place})",
    )
    assert found.resolved() is found
    whole = fednova(tmp_path) | {"parameters": {"steps": 5}}
    assert resolve(whole).raw == whole
    del runs["groups/Other"]
    place.write_text(json.dumps({"runs": runs}))
    with pytest.raises(RecipeError) as caught:
        resolve(fednova(tmp_path))
    assert str(caught.value) == (
        f"{place}: has no steps of groups/Other. Give parameters.steps in the recipe."
    )


def test_no_training_record(tmp_path):
    with pytest.raises(RecipeError) as caught:
        resolve(fednova(tmp_path / "deep"))
    assert str(caught.value) == (
        f"r.yml: model {tmp_path}/deep/groups/Female: needs parameters.steps: there is no "
        "train.json above the model. Give the number of optimiser steps of every model."
    )


def test_nothing_to_resolve():
    raw = injection("eval.json")
    raw["parameters"]["worst"] = "Male"
    made = Recipe.from_mapping(raw, "r.yml")
    assert made.resolved() is made
    stock = Recipe.from_mapping(
        {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]}, "s.yml"
    )
    assert stock.resolved() is stock
