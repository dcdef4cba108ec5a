"""Recipes that must not be merged: each is one message, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

import mergekit_fair
from mergekit_fair.errors import ConfigError, MeasurementError, RecipeError

mergekit_fair.register()

BOMB = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)


TEXTS = {
    "empty": ("", [ConfigError, "HERE/r.yml", "got 'nothing'"]),
    "list": ("- a\n", [ConfigError, "HERE/r.yml", "got 'list'"]),
    "word": ("merge", [ConfigError, "HERE/r.yml", "got 'str'"]),
    "not-yaml": (
        "a: [",
        [ConfigError, "HERE/r.yml", "'<stream end>'"],
    ),
    "tabs": (
        "models:\n\t- model: a\n",
        [ConfigError, "HERE/r.yml", "'\\t'"],
    ),
    "two-documents": (
        "a: 1\n---\nb: 1\n",
        [RecipeError, "HERE/r.yml", "exec mergekit-multi HERE/r.yml"],
    ),
    "control": (
        "a: \x07",
        [ConfigError, "HERE/r.yml", "is not valid YAML: unacceptable character"],
    ),
    "key-twice": (
        "merge_method: task_median\ndtype: float32\ndtype: float16\n",
        [ConfigError, "HERE/r.yml", "'dtype'"],
    ),
    "bomb": (
        BOMB,
        [ConfigError, "HERE/r.yml", "is not valid YAML: aliases stand"],
    ),
    "endless": (
        "models: &m [*m]\n",
        [ConfigError, "HERE/r.yml", "[*m]"],
    ),
    "deep": ("a: " + "[" * 1000, [ConfigError, "HERE/r.yml", "is not valid YAML: it is"]),
    "date": ("a: 2024-13-45\n", [ConfigError, "HERE/r.yml", "is not valid YAML: month must"]),
    "code": (
        "a: !!python/object/apply:os.system [exit]\n",
        [ConfigError, "HERE/r.yml", "'tag:yaml.org,2002:python/object/apply:os.system'"],
    ),
    "binary": (
        b"\x93NUMPY\x01\x00",
        [ConfigError, "HERE/r.yml", "('utf-8' codec can't decode byte 0x93 in position 0: invalid"],
    ),
    "number-key": (
        "5: 1\n",
        [RecipeError, "HERE/r.yml", "allowed: modules, slices, models, merge_method, base_model"],
    ),
    "huge": (
        f"merge_method: ties\nparameters: {{lambda: 0x{'f' * 5000}}}\n",
        [RecipeError, "HERE/r.yml: parameters.lambda", "got a very large int"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.values(), ids=TEXTS)
def test_texts_that_are_no_recipe(scene, text, expected):
    scene.write(text)
    kind, where, *shows = expected
    scene.refuses(kind, *shows, where=where)


def test_a_folder_or_nothing_in_place_of_a_recipe(scene):
    scene.refuses(ConfigError, "(Is a directory)", where="HERE/base", recipe="base")
    scene.refuses(
        ConfigError, "(No such file or directory)", where="HERE/nowhere.yml", recipe="nowhere.yml"
    )
    (scene.here / "endless.yml").symlink_to("/dev/zero")
    scene.refuses(
        ConfigError,
        "(it is a pipe or a device)",
        where="HERE/endless.yml",
        recipe="endless.yml",
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


def sliced(method="passthrough", **source):
    """One slice of the first group."""

    def change(raw):
        part = {"model": raw["models"][0]["model"], "layer_range": [0, 1]} | source
        raw.clear()
        raw |= {"merge_method": method, "slices": [{"sources": [part]}]}

    return change


KEYS = {
    "top": (
        top(parmeters={}),
        [
            "HERE/r.yml",
            "'parmeters'",
            "'parameters'?",
            "allowed: modules, slices, models, merge_method, base_model",
        ],
    ),
    "level": (
        top(weight=1),
        [
            "HERE/r.yml",
            "'weight'",
            "'parameters.weight'?",
            "allowed: modules, slices, models, merge_method, base_model",
        ],
    ),
    "model": (
        first(parameter={}),
        ["HERE/r.yml: models[0]", "'parameter'", "'parameters'?", "allowed: model, parameters"],
    ),
    "parameter": (
        shared(lamda=1),
        [
            "HERE/r.yml: parameters",
            "'lamda'",
            "'lambda'?",
            "allowed: group, weight, lambda, normalize, head, density",
        ],
    ),
    "filter": (
        shared(lambda_=[{"filter": "layer.0.", "value": 1, "vlaue": 2}]),
        ["HERE/r.yml: parameters.lambda", "'vlaue'", "'value'?", "allowed: filter, value"],
    ),
    "fairness": (
        top(fairness={"min_group_sise": 3}),
        [
            "HERE/r.yml: fairness",
            "'min_group_sise'",
            "'min_group_size'?",
            "allowed: report, min_group_size, exclude, tool, task, rule",
        ],
    ),
    "fairness-list": (top(fairness=["report"]), ["HERE/r.yml: fairness", "got ['report']"]),
    "tokenizer": (
        top(tokenizer={"sorce": "base"}),
        [
            "HERE/r.yml: tokenizer",
            "'sorce'",
            "'source'?",
            "allowed: source, tokens, pad_to_multiple_of",
        ],
    ),
    "token": (
        top(tokenizer={"tokens": {"<a>": {"forse": True}}}),
        ["HERE/r.yml: tokenizer.tokens.<a>", "'forse'", "'force'?", "allowed: source, force"],
    ),
    "token-source": (
        top(tokenizer={"tokens": {"<a>": {"source": {"kind": "zero", "tokn": 1}}}}),
        [
            "HERE/r.yml: tokenizer.tokens.<a>.source",
            "'tokn'",
            "'token'?",
            "allowed: kind, model, token_id, token",
        ],
    ),
    "template": (
        top(chat_template="chatlm"),
        [
            "HERE/r.yml: chat_template",
            "'chatml'?",
            "got 'chatlm'",
            "allowed: auto, alpaca, chatml, exaone, llama3, mistral, the",
        ],
    ),
    "slice": (
        sliced("task_median", layer_rang=1),
        [
            "HERE/r.yml: slices[0].sources[0]",
            "'layer_rang'",
            "'layer_range'?",
            "allowed: model, layer_range, parameters",
        ],
    ),
    "slice-parameter": (
        sliced("task_negation", parameters={"lamda": 1}),
        [
            "HERE/r.yml: slices[0].sources[0].parameters",
            "'lamda'",
            "'lambda'?",
            "(method task_negation)",
        ],
    ),
    "slice-empty": (
        sliced(layer_range=[1, 1]),
        [
            "HERE/r.yml: slices[0].sources[0].layer_range",
            "got [1, 1]",
            "allowed: the first layer, and the one after the last, up to",
        ],
    ),
    "slice-huge": (
        sliced(layer_range=[0, 10**9]),
        [
            "HERE/r.yml: slices[0].sources[0].layer_range",
            "got [0, 1000000000]",
            "allowed: the first layer, and the one after the last, up to",
        ],
    ),
    "slice-beyond": (
        sliced(layer_range=[0, 9]),
        [
            "HERE/r.yml",
            "mergekit cannot merge it: Tensor bert.encoder.layer.2.attention.self.query.weight",
        ],
    ),
    "module": (
        top(modules={"default": {"modls": []}}),
        [
            "HERE/r.yml: modules.default",
            "'modls'",
            "'models'?",
            "allowed: slices, models, parameters",
        ],
    ),
    "method": (
        top(merge_method="subgroup_task_additon"),
        [
            "HERE/r.yml",
            "'subgroup_task_addition'?",
            "got 'subgroup_task_additon'",
            "allowed: arcee_fusion, awd, breadcrumbs, breadcrumbs_ties, cclip",
        ],
    ),
    "method-list": (
        top(merge_method=["ties"]),
        [
            "HERE/r.yml",
            "'ties'?",
            "got ['ties']",
            "allowed: arcee_fusion, awd, breadcrumbs, breadcrumbs_ties, cclip",
        ],
    ),
    "nan": (shared(lambda_=float("nan")), ["HERE/r.yml: parameters.lambda", "got nan"]),
    "infinite": (shared(lambda_=[0, float("inf")]), ["HERE/r.yml: parameters.lambda", "got inf"]),
    "yes": (shared(lambda_=True), ["HERE/r.yml: parameters.lambda", "got True"]),
    "nothing": (shared(lambda_=None), ["HERE/r.yml: parameters.lambda", "has no value"]),
    "mapping": (
        shared(lambda_={}),
        [
            "HERE/r.yml: parameters.lambda",
            "got {}",
            "allowed: a scalar, a list (layer gradient), or a list of",
        ],
    ),
    "word": (
        male(weight="much"),
        ["HERE/r.yml: models[1] (HERE/Male): parameters.weight", "got 'much'"],
    ),
    "dtype": (
        top(dtype="bf16"),
        ["HERE/r.yml: dtype", "got 'bf16'", "allowed: float32, bfloat16, float16, float64"],
    ),
    "models": (top(models={"a": 1}), ["HERE/r.yml: models", "got {'a': 1}"]),
    "no-models": (top(models=[]), ["HERE/r.yml", "'models'", "'slices'", "'modules'"]),
    "no-base": (top(base_model=None), ["HERE/r.yml", "needs base_model, the θ₀ of the"]),
    "blank": (
        first(model="  "),
        ["HERE/r.yml: models[0].model", "got '  '", "allowed: a folder, a name of the Hub"],
    ),
    "half": (
        top(base_model="+adapter"),
        ["HERE/r.yml: base_model", "got '+adapter'", "allowed: a folder, a name of the Hub"],
    ),
    "no-group": (
        lambda raw: raw["models"][1].pop("parameters"),
        ["HERE/r.yml: model HERE/Male", "needs parameters.group, the subgroup it was"],
    ),
    "group-twice": (
        male(group="Female"),
        ["HERE/r.yml", "'Female'", "got ['HERE/Female', 'HERE/Male']"],
    ),
    "model-twice": (
        lambda raw: raw["models"][1].update(model=raw["models"][0]["model"] + "/."),
        ["HERE/r.yml: model HERE/Female/.", "is listed twice"],
    ),
    "base-weight": (
        lambda raw: raw["models"].append({"model": raw["base_model"], "parameters": {"weight": 2}}),
        ["HERE/r.yml: model HERE/base", "is base_model and cannot have a"],
    ),
    "no-rho": (
        top(merge_method="cclip", parameters={}),
        ["HERE/r.yml", "needs parameters.rho: ρ, the largest norm"],
    ),
    "no-steps": (
        top(merge_method="fednova", parameters={}),
        ["HERE/r.yml: model HERE/Female", "needs parameters.steps: there is no train.json"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), KEYS.values(), ids=KEYS)
def test_recipes_with_a_mistake(scene, change, expected):
    raw = scene.addition()
    change(raw)
    scene.write(raw)
    where, *shows = expected
    scene.refuses(RecipeError, *shows, where=where)


GROUPS = {"Female": {"dpd": 0.1, "eod": 0.2}, "Male": {"dpd": 0.3, "eod": None}}
SIZES = {"Female": {"n": 5, "n_pos": 2}, "Male": {"n": 7, "n_pos": 3}}
GOOD = {"one_vs_rest": {"groups": GROUPS}, "groups": SIZES, "n": 12, "n_pos": 5}


def text(**changes):
    return json.dumps(GOOD | changes)


REPORTS = {
    "empty": ("", [RecipeError, "HERE/report.json", "(Expecting value: line 1 column 1 (char 0))"]),
    "cut": (
        text()[:-1],
        [
            RecipeError,
            "HERE/report.json",
            "(Expecting ',' delimiter: line 1 column 195 (char 194))",
        ],
    ),
    "deep": ("[" * 100_000, [RecipeError, "HERE/report.json", "(it is nested too deeply)"]),
    "list": ("[]", [RecipeError, "HERE/report.json", "(one_vs_rest and groups)"]),
    "no-groups": (text(groups={}), [RecipeError, "HERE/report.json", "(one_vs_rest and groups)"]),
    "no-gaps": (
        text(one_vs_rest={}),
        [RecipeError, "HERE/report.json", "(one_vs_rest and groups)"],
    ),
    "words": (
        text(groups=SIZES | {"Female": {"n": "5", "n_pos": 2}}),
        [RecipeError, "HERE/report.json", "(one_vs_rest and groups)"],
    ),
    "nan": (
        text().replace("0.3", "NaN"),
        [RecipeError, "HERE/report.json", "(one_vs_rest and groups)"],
    ),
    "beyond": (
        text().replace("0.3", "3"),
        [RecipeError, "HERE/report.json", "(one_vs_rest and groups)"],
    ),
    "others": (
        text(one_vs_rest={"groups": {}}),
        [MeasurementError, "HERE/report.json", "got ['Female', 'Male']", "allowed: Female, Male"],
    ),
    "points": (
        text(points=[1, {"kind": "baseline", "label": ["fft"]}]),
        [RecipeError, "HERE/report.json", "got 'fft'", "allowed: ['fft']"],
    ),
}


def injection(scene, **fairness):
    raw = scene.family.injection(worst="auto") | {"fairness": fairness}
    scene.write(raw)


@pytest.mark.parametrize(("report", "expected"), REPORTS.values(), ids=REPORTS)
def test_reports_that_do_not_tell_the_worst_group(scene, report, expected):
    (scene.here / "report.json").write_text(report)
    injection(scene, report=str(scene.here / "report.json"))
    kind, where, *shows = expected
    scene.refuses(kind, *shows, where=where)


def test_no_report_for_the_worst_group(scene):
    injection(scene)
    scene.refuses(RecipeError, "worst: auto needs fairness.report, the file", where="HERE/r.yml")
    injection(scene, report=str(scene.here / "nowhere.json"))
    scene.refuses(RecipeError, "(No such file or directory)", where="HERE/nowhere.json")
    (scene.here / "report.json").write_text(text())
    injection(scene, report=str(scene.here / "report.json"), min_group_size="all")
    scene.refuses(RecipeError, "got 'all'", where="HERE/r.yml: fairness.min_group_size")


@pytest.mark.parametrize("steps", ["", "[]", "[" * 100_000, '{"runs": {"Female": {"steps": []}}}'])
def test_a_file_of_steps_without_steps(scene, steps):
    (scene.here / "train.json").write_text(steps)
    scene.write(scene.addition() | {"merge_method": "fednova", "parameters": {}})
    scene.refuses(RecipeError, "has no steps of Female", where="HERE/train.json")
