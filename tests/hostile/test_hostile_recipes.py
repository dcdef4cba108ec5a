"""Recipes that must not be merged: each is one message, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest
from mergekit import merge_methods

import mergekit_fair

mergekit_fair.register()

BOMB = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)
CHECK = "Check the path."
YAML = "HERE/r.yml: is not valid YAML:"
TOP = (
    "allowed: modules, slices, models, merge_method, base_model, dtype, tokenizer_source, "
    "tokenizer, chat_template, out_dtype, parameters, fairness."
)

METHODS = ", ".join(sorted(method.spec.name for method in merge_methods.registered_methods()))
PARAMETERS = ", ".join(
    parameter.name for parameter in merge_methods.get("subgroup_task_addition").spec.parameters
)

TEXTS = {
    "empty": ("", "HERE/r.yml: the top level must be a mapping; got 'nothing'."),
    "list": ("- a\n", "HERE/r.yml: the top level must be a mapping; got 'list'."),
    "word": ("merge", "HERE/r.yml: the top level must be a mapping; got 'str'."),
    "not-yaml": (
        "a: [",
        f"{YAML} while parsing a flow node expected the node content, but found '<stream end>' in "
        "line 1, column 5: a: [ ^.",
    ),
    "tabs": (
        "models:\n\t- model: a\n",
        f"{YAML} while scanning for the next token found character '\\t' that cannot start any "
        "token in line 2, column 1: - model: a ^.",
    ),
    "two-documents": (
        "a: 1\n---\nb: 1\n",
        f"{YAML} expected a single document in the stream in line 1, column 1: a: 1 ^ but found "
        "another document in line 2, column 1: --- ^.",
    ),
    "control": (
        "a: \x07",
        f"{YAML} unacceptable character #x0007: special characters are not allowed in position 3.",
    ),
    "key-twice": ("dtype: float32\ndtype: float16\n", f"{YAML} key 'dtype' stands twice in line 2, "
        "column 1: dtype: float16 ^."),
    "bomb": (
        BOMB,
        f"{YAML} aliases stand for more than 10,000 values in line 1, column 1: a0: &a0 [ha, ha, "
        "ha, ha, ha, ha, ... ^.",
    ),
    "endless": (
        "models: &m [*m]\n",
        f"{YAML} aliases stand for more than 10,000 values in line 1, column 1: models: &m [*m] ^.",
    ),
    "deep": ("a: " + "[" * 1000, f"{YAML} it is nested too deeply."),
    "date": ("a: 2024-13-45\n", f"{YAML} month must be in 1..12."),
    "code": (
        "a: !!python/object/apply:os.system [exit]\n",
        f"{YAML} could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system' in line 1, column 4: a: "
        "!!python/object/apply:os.system ... ^.",
    ),
    "binary": (
        b"\x93NUMPY\x01\x00",
        "HERE/r.yml: cannot be read ('utf-8' codec can't decode byte 0x93 in position 0: invalid "
        f"start byte). {CHECK}",
    ),
    "number-key": ("5: 1\n", f"HERE/r.yml: unknown key 5; {TOP}"),
    "huge": (
        f"merge_method: ties\nparameters: {{lambda: 0x{'f' * 5000}}}\n",
        "HERE/r.yml: parameters.lambda: Input should be a valid number; got a very large int.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_texts_that_are_no_recipe(scene, text, message):
    scene.write(text)
    assert scene.refused() == message


def test_a_folder_or_nothing_in_place_of_a_recipe(scene):
    assert scene.refused(recipe="base") == f"HERE/base: cannot be read (Is a directory). {CHECK}"
    assert scene.refused(recipe="nowhere.yml") == (
        f"HERE/nowhere.yml: cannot be read (No such file or directory). {CHECK}"
    )
    (scene.here / "endless.yml").symlink_to("/dev/zero")
    assert scene.refused(recipe="endless.yml") == (
        f"HERE/endless.yml: cannot be read (it is longer than 100,000,000 characters). {CHECK}"
    )


def first(**changes):
    return lambda raw: raw["models"][0].update(changes)


def male(**changes):
    return lambda raw: raw["models"][1]["parameters"].update(changes)


def shared(**changes):
    return lambda raw: raw["parameters"].update(
        {name.rstrip("_"): value for name, value in changes.items()}
    )


def top(**changes):
    return lambda raw: raw.update(changes)


def sliced(**source):
    """A passthrough of one slice of the first group."""

    def change(raw):
        part = {"model": raw["models"][0]["model"], "layer_range": [0, 1]} | source
        raw.clear()
        raw |= {"merge_method": "passthrough", "slices": [{"sources": [part]}]}

    return change


SETTING = "allowed: a scalar, a list (layer gradient), or a list of {filter, value}."

KEYS = {
    "top": (top(parmeters={}), "unknown key 'parmeters'; did you mean 'parameters'?; " + TOP),
    "level": (top(weight=1), f"unknown key 'weight'; did you mean 'parameters.weight'?; {TOP}"),
    "model": (first(parameter={}), "models[0]: unknown key 'parameter'; did you mean 'parameters'?;"
        " allowed: model, parameters."),
    "parameter": (shared(lamda=1), f"parameters: unknown key 'lamda'; did you mean 'lambda'?; "
        f"allowed: {PARAMETERS}, (method subgroup_task_addition)."),
    "filter": (shared(lambda_=[{"filter": "layer.0.", "value": 1, "vlaue": 2}]),
        "parameters.lambda: unknown key 'vlaue'; did you mean 'value'?; allowed: filter, value."),
    "fairness": (top(fairness={"min_group_sise": 3}), "fairness: unknown key 'min_group_sise'; did "
        "you mean 'min_group_size'?; allowed: report, min_group_size, exclude, tool, task, rule, "
        "selected_on, feasible, validation."),
    "fairness-list": (top(fairness=["report"]), "fairness: must be a mapping; got ['report']."),
    "tokenizer": (top(tokenizer={"sorce": "base"}), "tokenizer: unknown key 'sorce'; did you mean "
        "'source'?; allowed: source, tokens, pad_to_multiple_of."),
    "token": (top(tokenizer={"tokens": {"<a>": {"forse": True}}}), "tokenizer.tokens.<a>: unknown "
        "key 'forse'; did you mean 'force'?; allowed: source, force."),
    "token-source": (
        top(tokenizer={"tokens": {"<a>": {"source": {"kind": "zero", "tokn": 1}}}}),
        "tokenizer.tokens.<a>.source: unknown key 'tokn'; did you mean 'token'?; allowed: kind, "
        "model, token_id, token."),
    "template": (top(chat_template="chatlm"), "chat_template: is no chat template; did you mean "
        "'chatml'?; got 'chatlm'; allowed: auto, alpaca, chatml, exaone, llama3, mistral, the text "
        "of a template."),
    "slice": (sliced(layer_rang=1), "slices[0].sources[0]: unknown key 'layer_rang'; did you mean "
        "'layer_range'?; allowed: model, layer_range, parameters."),
    "slice-parameter": (sliced(parameters={"scael": 1}), "slices[0].sources[0].parameters: unknown "
        "key 'scael'; did you mean 'scale'?; allowed: scale, (method passthrough)."),
    "slice-empty": (sliced(layer_range=[1, 1]), "slices[0].sources[0].layer_range: is no range of "
        "layers; got [1, 1]; allowed: the first layer, and the one after the last, up to 10,000."),
    "slice-huge": (sliced(layer_range=[0, 10**9]), "slices[0].sources[0].layer_range: is no range "
        "of layers; got [0, 1000000000]; allowed: the first layer, and the one after the last, up "
        "to 10,000."),
    "slice-beyond": (sliced(layer_range=[0, 9]), "mergekit cannot merge it: Tensor "
        "bert.encoder.layer.2.attention.self.query.weight required but not present in model "
        "HERE/Female."),
    "module": (top(modules={"default": {"modls": []}}), "modules.default: unknown key 'modls'; did "
        "you mean 'models'?; allowed: slices, models, parameters."),
    "method": (top(merge_method="subgroup_task_additon"), "unknown merge_method; did you mean "
        f"'subgroup_task_addition'?; got 'subgroup_task_additon'; allowed: {METHODS}."),
    "method-list": (top(merge_method=["ties"]), "unknown merge_method; did you mean 'ties'?; got "
        f"['ties']; allowed: {METHODS}."),
    "nan": (shared(lambda_=float("nan")), "parameters.lambda: Input should be a finite number; got "
        "nan."),
    "infinite": (shared(lambda_=[0, float("inf")]), "parameters.lambda: Input should be a finite "
        "number; got inf."),
    "yes": (shared(lambda_=True), "parameters.lambda: must be a number; got True."),
    "nothing": (shared(lambda_=None), "parameters.lambda: has no value."),
    "mapping": (shared(lambda_={}), "parameters.lambda: is no parameter setting; got {}; "
        f"{SETTING}"),
    "word": (male(weight="much"), "models[1] (HERE/Male): parameters.weight: Input should be a "
        "valid number, unable to parse string as a number; got 'much'."),
    "dtype": (top(dtype="bf16"), "dtype: is no dtype to merge in; got 'bf16'; allowed: float32, "
        "bfloat16, float16, float64."),
    "models": (top(models={"a": 1}), "models: must be a list of models; got {'a': 1}."),
    "no-models": (top(models=[]), "Exactly one of 'models', 'slices', or 'modules' must be "
        "present."),
    "no-base": (top(base_model=None), "needs base_model, the θ₀ of the task vectors."),
    "blank": (first(model="  "), "models[0].model: names no model; got '  '; allowed: a folder, a "
        "name of the Hub."),
    "half": (top(base_model="+adapter"), "base_model: names no model; got '+adapter'; allowed: a "
        "folder, a name of the Hub."),
    "no-group": (lambda raw: raw["models"][1].pop("parameters"), "model HERE/Male: needs "
        "parameters.group, the subgroup it was fine-tuned on."),
    "group-twice": (male(group="Female"), "group 'Female' is given by two models; got "
        "['HERE/Female', 'HERE/Male']. Give every model a group of its own."),
    "model-twice": (lambda raw: raw["models"][1].update(model=raw["models"][0]["model"] + "/."),
        "model HERE/Female/.: is listed twice."),
    "base-weight": (lambda raw: raw["models"].append({"model": raw["base_model"], "parameters":
        {"weight": 2}}), "model HERE/base: is base_model and cannot have a weight."),
    "no-rho": (top(merge_method="cclip", parameters={}), "needs parameters.rho: ρ, the largest "
        "norm that a task vector keeps."),
    "no-steps": (top(merge_method="fednova", parameters={}), "model HERE/Female: needs "
        "parameters.steps: there is no train.json above the model. Give the number of optimiser "
        "steps of every model."),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), KEYS.values(), ids=KEYS)
def test_recipes_with_a_mistake(scene, change, message):
    raw = scene.addition()
    change(raw)
    scene.write(raw)
    assert scene.refused() == f"HERE/r.yml: {message}"


GROUPS = {"Female": {"dpd": 0.1, "eod": 0.2}, "Male": {"dpd": 0.3, "eod": None}}
GOOD = {"one_vs_rest": {"groups": GROUPS}, "groups": {"Female": {"n": 5}, "Male": {"n": 7}}}
NONE = (
    "holds no evaluation (one_vs_rest and groups). Give the JSON of an evaluation of the target, "
    "or a sweep's results.json."
)
JSON = "is not valid JSON"


def text(**changes):
    return json.dumps(GOOD | changes)


REPORTS = {
    "empty": ("", f"{JSON} (Expecting value: line 1 column 1 (char 0))."),
    "cut": (text()[:-1], f"{JSON} (Expecting ',' delimiter: line 1 column 150 (char 149))."),
    "deep": ("[" * 100_000, f"{JSON} (it is nested too deeply)."),
    "list": ("[]", NONE),
    "no-groups": (text(groups={}), NONE),
    "no-gaps": (text(one_vs_rest={}), NONE),
    "words": (text(groups={"Female": {"n": "5"}, "Male": {"n": 7}}), NONE),
    "nan": (text().replace("0.3", "NaN"), NONE),
    "beyond": (text().replace("0.3", "3"), NONE),
    "others": (text(one_vs_rest={"groups": {}}), "no candidate group has a defined DPD or EOD and "
        "1 rows or more; got ['Female', 'Male']; allowed: Female, Male. Name the group in "
        "parameters.worst, or change fairness."),
    "points": (text(points=[1, {"kind": "baseline", "label": ["fft"]}]), "these results have no "
        "baseline with the name of the target's folder; got 'fft'; allowed: ['fft']."),
}  # fmt: skip


def injection(scene, **fairness):
    raw = scene.family.injection(worst="auto") | {"fairness": fairness}
    scene.write(raw)


@pytest.mark.parametrize(("report", "message"), REPORTS.values(), ids=REPORTS)
def test_reports_that_do_not_tell_the_worst_group(scene, report, message):
    (scene.here / "report.json").write_text(report)
    injection(scene, report=str(scene.here / "report.json"))
    assert scene.refused() == f"HERE/report.json: {message}"


def test_no_report_for_the_worst_group(scene):
    injection(scene)
    assert scene.refused() == (
        "HERE/r.yml: worst: auto needs fairness.report, the file of an evaluation. Write fairness: "
        "{report: FILE}, or name the group."
    )
    injection(scene, report=str(scene.here / "nowhere.json"))
    assert scene.refused() == (
        f"HERE/nowhere.json: cannot be read (No such file or directory). {CHECK}"
    )
    (scene.here / "report.json").write_text(text())
    injection(scene, report=str(scene.here / "report.json"), min_group_size="all")
    assert scene.refused() == (
        "HERE/r.yml: fairness.min_group_size: must be a number of rows, 1 or more; got 'all'."
    )


@pytest.mark.parametrize("steps", ["", "[]", "[" * 100_000, '{"runs": {"Female": {"steps": []}}}'])
def test_a_file_of_steps_without_steps(scene, steps):
    (scene.here / "train.json").write_text(steps)
    scene.write(scene.addition() | {"merge_method": "fednova", "parameters": {}})
    assert scene.refused() == (
        "HERE/train.json: has no steps of Female. Give parameters.steps in the recipe."
    )
