"""What mergekit passes over in silence is said: a warning for its methods, an error for ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from refusals import raises, refusal

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, RecipeError
from mergekit_fair.merging.grid import write_grid
from mergekit_fair.merging.recipe import Recipe


def models(*names: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": dict(parameters)} for name in names]


def linear(**changes: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": models("a", "b", weight=1)} | changes


def ties(**changes: Any) -> dict[str, Any]:
    raw = {"merge_method": "ties", "base_model": "o", "models": models("a", "b", weight=1)}
    return raw | changes


def slerp(**parameters: Any) -> dict[str, Any]:
    raw = {"merge_method": "slerp", "base_model": "a", "models": [{"model": "b"}]}
    return raw | {"parameters": {"t": 0.5} | parameters}


def stacked(*ranges: list[int], **source: Any) -> dict[str, Any]:
    sources = [{"model": "a", "layer_range": pair} | source for pair in ranges]
    return {"merge_method": "passthrough", "slices": [{"sources": [each]} for each in sources]}


# A recipe of mergekit's, and what its warnings must name: the place, the key, the near name.
IGNORED = {
    "name": (linear(name="first"), ["r.yml: unknown key 'name'"]),
    "mistyped": (ties(dtpye="float16"), ["r.yml: unknown key 'dtpye'", "'dtype'?"]),
    "one level up": (ties(density=0.5), ["r.yml: unknown key 'density'", "'parameters.density'?"]),
    "one level down": (
        ties(parameters={"out_dtype": "float16"}),
        ["r.yml: parameters: unknown key 'out_dtype'", "top level"],
    ),
    "another method's": (
        linear(parameters={"int8_mask": True}),
        ["r.yml: parameters: unknown key 'int8_mask'"],
    ),
    "nested": (
        linear(models=models("a", "b", weight=1, filter_wise=[{"filter": "x", "value": 1}])),
        ["r.yml: models[0] (a): parameters: unknown key 'filter_wise'"],
    ),
    "model": (
        linear(models=[{"model": "a", "paramters": {}}], parameters={"weight": 1}),
        ["r.yml: models[0]: unknown key 'paramters'", "'parameters'?"],
    ),
    "revision": (
        stacked([0, 2], revision="dev"),
        ["r.yml: slices[0].sources[0]: unknown key 'revision'", "NAME@REVISION"],
    ),
    "revision of a path": (
        linear(models=[{"model": {"model": {"path": "a", "revison": "b"}}}, *models("b")])
        | {"parameters": {"weight": 1}},
        ["r.yml: models[0].model.model: unknown key 'revison'", "'revision'?"],
    ),
    "slice": (
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}], "merge_method": "x"}],
        },
        ["r.yml: slices[0]: unknown key 'merge_method'"],
    ),
    "slice's parameters": (
        stacked([0, 2], parameters={"scael": 2}),
        ["r.yml: slices[0].sources[0].parameters: unknown key 'scael'", "'scale'?"],
    ),
    "module": (
        {"merge_method": "linear", "parameters": {"weight": 1}}
        | {"modules": {"text": {"models": [{"model": "a", "wieght": 1}], "modles": 1}}},
        [
            "r.yml: modules.text: unknown key 'modles'",
            "r.yml: modules.text.models[0]: unknown key 'wieght'",
        ],
    ),
    "tokenizer": (
        linear(tokenizer={"sorce": "base", "tokens": {"<a>": {"forse": True}}}),
        ["r.yml: tokenizer: unknown key 'sorce'", "r.yml: tokenizer.tokens.<a>: unknown key 'fo"],
    ),
    "token's source": (
        linear(tokenizer={"tokens": {"<a>": {"source": {"kind": "zero", "tokn": 1}}}}),
        ["r.yml: tokenizer.tokens.<a>.source: unknown key 'tokn'", "'token'?"],
    ),
    "fairness": (linear(fairness={"reprot": "x"}), ["r.yml: fairness: unknown key 'reprot'"]),
    "fairness of another type": (linear(fairness="x"), ["r.yml: fairness: "]),
    "condition": (
        ties(parameters={"lambda": [{"fliter": "mlp", "value": 1}]}),
        ["r.yml: parameters.lambda: unknown key 'fliter'", "'filter'?"],
    ),
    "shared, on a model": (
        ties(models=models("a", "b", weight=1, normalize=False)),
        ["r.yml: models[0] (a): parameters.normalize: "],
    ),
    "shared, on a source": (
        {
            "merge_method": "slerp",
            "base_model": "a",
            "parameters": {"t": 0.5},
            "slices": [
                {
                    "sources": [
                        {"model": "a", "layer_range": [0, 2]},
                        {"model": "b", "layer_range": [0, 2], "parameters": {"t": 0.1}},
                    ]
                }
            ],
        },
        ["r.yml: slices[0].sources[1].parameters.t: "],
    ),
    "of the base": (
        ties(models=models("o", "a", weight=1, density=0.5)),
        ["r.yml: models[0].parameters.weight: ", "r.yml: models[0].parameters.density: "],
    ),
    "yes": (ties(parameters={"lambda": True}), ["r.yml: parameters.lambda: True", "1.0"]),
    "one folder twice": (ties(models=models("a", "./a", weight=1)), ["r.yml: model ./a: "]),
    "the base, spelled otherwise": (
        ties(base_model="./a", models=models("a", "b", weight=1)),
        ["r.yml: model a: is base_model (./a)"],
    ),
    "no layer": (stacked([0, 2], [2, 2]), ["r.yml: slices[1].sources[0].layer_range: "]),
    "number as a key": (linear() | {7: 1}, ["r.yml: unknown key 7"]),
}


@pytest.mark.parametrize(("raw", "shows"), IGNORED.values(), ids=IGNORED)
def test_what_mergekit_ignores_is_a_warning(raw: dict[str, Any], shows: list[str]) -> None:
    warnings = "\n".join(Recipe.from_mapping(raw, "r.yml").warnings)
    assert all(text in warnings for text in shows), warnings


KEYS = {name: case for name, case in IGNORED.items() if "unknown key" in case[1][0]}


@pytest.mark.parametrize(("raw", "shows"), KEYS.values(), ids=KEYS)
def test_an_unknown_key_is_an_error_for_our_methods(raw: dict[str, Any], shows: list[str]) -> None:
    ours = raw | {"merge_method": "subgroup_task_addition", "base_model": "o"}
    where, _, key = shows[0].partition(": unknown key ")
    with raises(RecipeError, f"unknown key {key}", where=where):
        Recipe.from_mapping(ours, "r.yml")


def test_a_shared_parameter_on_a_source_is_an_error_for_our_methods() -> None:
    source = {"model": "a", "layer_range": [0, 2], "parameters": {"lambda": 1}}
    ours = {"merge_method": "task_negation", "base_model": "o", "slices": [{"sources": [source]}]}
    with raises(RecipeError, where="r.yml: slices[0].sources[0].parameters.lambda"):
        Recipe.from_mapping(ours, "r.yml")


GOOD = {
    "empty names": linear(chat_template="", base_model=None),
    "template": linear(chat_template="{% for message in messages %}{{ message }}{% endfor %}"),
    "numbers as text": slerp(t=["1e-3", "0.5"]),
    "truth as a number": ties(parameters={"normalize": 1.0}),
    "layers as text": stacked(["0", "2"]),
    "filters without a rest": ties(parameters={"lambda": [{"filter": "mlp", "value": 0.5}]}),
    "parameters of a slice": {
        "merge_method": "linear",
        "slices": [
            {
                "sources": [{"model": name, "layer_range": [0, 1]} for name in "ab"],
                "parameters": {"weight": 0.5, "normalize": False},
            }
        ],
    },
    "provenance": linear(fairness={"report": "x"}),
}


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD)
def test_what_mergekit_reads_is_no_warning(raw: dict[str, Any]) -> None:
    assert Recipe.from_mapping(raw, "r.yml").warnings == ()


# What would be lost, or is not what it says, is an error for every method; so is what mergekit
# itself refuses once it has opened the models.
WRONG = {
    "NaN": (linear(models=models("a", weight=float("nan"))), "models[0] (a): parameters.weight"),
    "NaN in a gradient": (slerp(t=[0, float("nan")]), "parameters.t"),
    "empty list": (ties(parameters={"lambda": []}), "parameters.lambda"),
    "short template": (linear(chat_template="{{ x }}"), "chat_template"),
    "unknown template": (linear(chat_template="chatlm"), "chat_template"),
    "backwards": (stacked([0, 2], [4, 2]), "slices[1].sources[0].layer_range"),
    "below zero": (stacked([-1, 2]), "slices[0].sources[0].layer_range"),
    "text too large": (stacked(["0", "99999999"]), "slices[0].sources[0].layer_range"),
    "no layers at all": (stacked([2, 2], [0, 0]), "slices[0].sources[0].layer_range"),
    "one model twice": (ties(models=models("a", "a", weight=1)), "model a"),
    "one reference twice": (
        linear(models=[*models("a", weight=1), {"model": {"model": {"path": "a"}}}])
        | {"parameters": {"weight": 1}},
        "models",
    ),
    "no weight": (ties(models=models("a", weigth=1)), "models"),
    "no weight of the base": (linear(base_model="o"), "models"),
    "no t": (slerp() | {"parameters": {}}, "models"),
    "no base": (ties(base_model=None), "models"),
    "three models": (slerp() | {"models": [{"model": name} for name in "bcd"]}, "models"),
    "text as a block": (linear(tokenizer="union"), "tokenizer"),
    "not true": (ties(parameters={"normalize": 0.5}), "parameters.normalize"),
    "modules misspelled": (
        {"merge_method": "linear", "modles": models("a", weight=1)},
        "",
    ),
}


@pytest.mark.parametrize(("raw", "where"), WRONG.values(), ids=WRONG)
def test_what_would_be_wrong_is_an_error(raw: dict[str, Any], where: str) -> None:
    with raises(RecipeError, where=f"r.yml: {where}".removesuffix(": ")):
        Recipe.from_mapping(raw, "r.yml").require_inputs()


@pytest.mark.parametrize("case", ["no weight", "modules misspelled"])
def test_an_error_names_what_nobody_reads(case: str) -> None:
    raw, _ = WRONG[case]
    near = "'weight'?" if case == "no weight" else "'modules'?"
    with raises(RecipeError, fix=near):
        Recipe.from_mapping(raw, "r.yml").require_inputs()


FILES = {
    "mergekit-moe": "base_model: a\ngate_mode: hidden\nexperts: [{source_model: b}]\n",
    "mergekit-moe, as a method": "merge_method: moe\nexperts: [{source_model: b}]\n",
    "mergekit-evolve": "genome: {models: [a, b], merge_method: ties}\ntasks: [x]\n",
    "bakllama": "layer_slices: [{model: a, start: 0, end: 2}]\n",
    "mergekit-multi": "name: one\nmerge_method: linear\n---\nmerge_method: slerp\n",
}


@pytest.mark.parametrize(("program", "text"), FILES.items(), ids=FILES)
def test_files_of_other_programs_name_them(program: str, text: str) -> None:
    with raises(RecipeError, where="r.yml", fix=f"exec {program.partition(',')[0]} r.yml"):
        Recipe.from_text(text, "r.yml")


def test_a_document_that_ends_in_dashes() -> None:
    text = yaml.safe_dump(linear()) + "---\n"
    with raises(RecipeError, where="r.yml", fix="---"):
        Recipe.from_text(text, "r.yml")
    assert Recipe.from_text("---\n" + yaml.safe_dump(linear()) + "...\n", "r.yml").warnings == ()


def test_equal_keys_are_read_as_mergekit_reads_them() -> None:
    text = "dtype: float16\ndtype: float32\n" + yaml.safe_dump(linear())
    recipe = Recipe.from_text(text, "r.yml")
    assert (recipe.raw["dtype"], recipe.source) == ("float32", text)
    (warning,) = recipe.warnings
    assert "r.yml: key 'dtype'" in warning
    assert "line 2" in warning
    with raises(ConfigError, "'dtype'", where="r.yml"):
        Recipe.from_text(text.replace("linear", "cclip"), "r.yml")


def test_anchors_and_merged_keys_are_read() -> None:
    text = """
        merge_method: linear
        models:
          - {model: a, parameters: &half {weight: 0.5}}
          - {model: b, parameters: *half}
          - {model: c, parameters: {<<: *half, <<: {}}}
    """
    recipe = Recipe.from_text(text, "r.yml")
    assert [item["parameters"] for item in recipe.raw["models"]] == [{"weight": 0.5}] * 3
    assert recipe.warnings == ()


def test_a_grid_of_a_parameter_that_the_method_does_not_have(tmp_path: Path) -> None:
    recipe = Recipe.from_mapping(slerp(), "r.yml")
    with raises(RecipeError, "'lambda'", got="lambda", allowed="t"):
        write_grid(recipe, {"lambda": (0.0, 1.0)}, tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def run(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def mistaken(tiny, tmp_path: Path) -> Path:
    """A recipe that mergekit runs, with a key that it ignores."""
    family = tiny("llama")
    raw = {
        "merge_method": "linear",
        "models": models(*map(str, family.groups.values()), weight=1),
        "parameters": {"normalise": False},
    }
    path = tmp_path / "mistaken.yml"
    path.write_text(yaml.safe_dump(raw))
    return path


SHOWN = "mistaken.yml: parameters: unknown key 'normalise', which mergekit ignores; did you mean "


def test_merge_says_warnings_and_keeps_them(mistaken: Path, tmp_path: Path) -> None:
    loud = run("merge", mistaken, tmp_path / "loud")
    assert loud.exit_code == 0
    assert f"warning: {tmp_path}/{SHOWN}'normalize'?" in loud.stderr
    notes = json.loads((tmp_path / "loud" / "merge_manifest.json").read_text())["notes"]
    assert notes == [f"warning: {tmp_path}/{SHOWN}'normalize'?"]
    quiet = run("merge", mistaken, tmp_path / "quiet", "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_check_shows_warnings(mistaken: Path) -> None:
    text, facts = run("check", mistaken), run("check", mistaken, "--json")
    assert f"{SHOWN}'normalize'?" in text.stdout
    (warning,) = json.loads(facts.stdout)["warnings"]
    assert f"{SHOWN}'normalize'?" in warning
    assert (run("check", mistaken, "--quiet").output, facts.stderr) == ("", "")


def test_check_says_warnings_before_an_error(mistaken: Path) -> None:
    raw = yaml.safe_load(mistaken.read_text())
    raw["models"][1]["model"] += "/nothing"
    mistaken.write_text(yaml.safe_dump(raw))
    result = run("check", mistaken)
    assert result.exit_code == 2
    first, last = result.stderr.splitlines()
    assert first.startswith("warning: ")
    assert last.startswith("Error: ")


def test_grid_says_warnings(mistaken: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(mistaken.read_text()) | {"merge_method": "task_arithmetic"}
    raw["base_model"] = raw["models"][0]["model"]
    mistaken.write_text(yaml.safe_dump(raw))
    result = run("grid", mistaken, "--lambda", "0:1:0.5", "-o", tmp_path / "grid")
    assert result.exit_code == 0
    assert "'normalise'" in result.stderr
    manifest = json.loads((tmp_path / "grid" / "manifest.json").read_text())
    assert "'normalise'" in manifest["notes"][0]


def test_our_methods_refuse_what_check_and_merge_warn_of(mistaken: Path) -> None:
    raw = yaml.safe_load(mistaken.read_text()) | {"merge_method": "subgroup_task_addition"}
    mistaken.write_text(yaml.safe_dump(raw))
    refusal(["check", mistaken], RecipeError, "'normalise'", where=f"{mistaken}: parameters")


FILTERS = {
    "score": None,
    "*": None,
    "layers.40.self_attn": None,  # slices have more layers than their models
    "self_atn": "'self_attn'?",
    "layers.0-1": "",
}


def test_a_filter_of_our_methods_that_matches_no_tensor_is_said(tiny, tmp_path: Path) -> None:
    raw = tiny("llama").addition(lambda_=[{"filter": "self_atn", "value": 0.3}, {"value": 0.7}])
    path = tmp_path / "r.yml"
    path.write_text(yaml.safe_dump(raw))
    shown = "parameters.lambda: filter 'self_atn' matches no tensor; did you mean 'self_attn'?"
    assert shown in run("merge", path, tmp_path / "out").stderr
    assert shown in run("check", path).stdout
    assert shown in (tmp_path / "out" / "merge_manifest.json").read_text()


@pytest.mark.parametrize(("text", "near"), FILTERS.items(), ids=FILTERS)
def test_a_filter_that_matches_no_tensor_is_said(tiny, tmp_path: Path, text, near) -> None:
    family = tiny("llama")
    weight = [{"filter": text, "value": 0.3}, {"value": 0.7}]
    raw = {
        "merge_method": "linear",
        "models": models(*map(str, family.groups.values()), weight=weight),
    }
    path = tmp_path / "r.yml"
    path.write_text(yaml.safe_dump(raw))
    merged = run("merge", path, tmp_path / "out")
    facts = json.loads(run("check", path, "--json").stdout)
    notes = json.loads((tmp_path / "out" / "merge_manifest.json").read_text())["notes"]
    if near is None:
        assert facts["warnings"] == [note for note in notes if "warning" in note] == []
        return
    assert len(facts["warnings"]) == len(family.groups)
    assert f"r.yml: models[0].parameters.weight: filter {text!r} matches no tensor" in merged.stderr
    assert near in facts["warnings"][0]
    assert [f"warning: {warning}" for warning in facts["warnings"]] == notes[-len(family.groups) :]
