"""A recipe is opened and checked once, on every route and whatever the options; then λ is cheap."""

import itertools
import json
import shutil

import pytest
import torch
from checkpoints import read, rewrite
from refusals import raises
from rounding import same_bits

from mergekit_fair.errors import CheckpointError, FairError, RecipeError
from mergekit_fair.merging.dry_run import check_merge
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.plan import MergePlan
from mergekit_fair.merging.plan_cache import PlanCache
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe, family
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent

FILTERED = [{"filter": "attention", "value": -0.5}, {"value": 1}]


def recipe(raw):
    return Recipe.from_mapping(raw, "r.yml")


def equal(left, right):
    return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)


# How a merge runs decides nothing about whether it is checked.

OPTIONS = {
    "tokenizer_source": ({"tokenizer_source": "base"}, {}),
    "tokenizer": ({"tokenizer": {"source": "base"}}, {}),
    "allow_crimes": ({}, {"allow_crimes": True}),
    "truncate": ({}, {"unsafe_truncate_embeddings": True}),
    "pickled": ({}, {"safe_serialization": False}),
}


def other_head(folder):
    noise = torch.randn(2, 32, generator=torch.Generator().manual_seed(7))
    rewrite(folder, lambda tensors: tensors.update({"classifier.weight": 0.02 * noise}))


def swapped_classes(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "1", "1": "0"}}))


def other_shape(folder):
    name = "bert.pooler.dense.weight"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name][:16].clone()}))


HAZARDS = {
    "unrelated heads": (other_head, RecipeError),
    "swapped classes": (swapped_classes, CheckpointError),
    "other shapes": (other_shape, CheckpointError),
}


@pytest.mark.parametrize("hazard", HAZARDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_no_option_switches_a_check_off(tiny, tmp_path, options, option, hazard):
    change, kind = HAZARDS[hazard]
    block, extra = OPTIONS[option]
    raw = tiny("bert").addition(lambda_=0.5) | block
    raw["models"][1]["model"] = str(shutil.copytree(raw["models"][1]["model"], tmp_path / "odd"))
    change(tmp_path / "odd")
    options = options.model_copy(update=extra)
    with raises(kind):
        merge_to_folder(recipe(raw), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
    with raises(kind):
        check_merge(recipe(raw), options, MergeSettings(), Silent())
    with pytest.raises(FairError):
        dict(Composer().compose(recipe(raw)))


@pytest.mark.parametrize("architecture", ["bert", "vit"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_writes_the_same_tensors_or_nothing(
    tiny, tmp_path, options, architecture, option
):
    """mergekit's own definition knows 8 of a ViT's 40 tensors; a ViT has no tokenizer to build."""
    block, extra = OPTIONS[option]
    made = recipe(tiny(architecture).addition(lambda_=0.3))
    merge_to_folder(made, tmp_path / "plain", options)
    plain, out = read(tmp_path / "plain"), tmp_path / "out"
    changed = recipe(made.raw | block)
    if architecture == "vit" and block:
        with raises(RecipeError):
            merge_to_folder(changed, out, options.model_copy(update=extra))
        assert not out.exists()
        return
    merge_to_folder(changed, out, options.model_copy(update=extra))
    is_pickled = option == "pickled"
    written = torch.load(out / "pytorch_model.bin") if is_pickled else read(out)
    assert equal(dict(written), plain)
    assert check_merge(changed, options, MergeSettings(), Silent())["method"] == made.method


def test_vocabularies_that_differ_need_a_tokenizer_to_build(tiny, tmp_path, options):
    """Rows for more tokens are a difference that a tokenizer's source brings together."""
    raw = tiny("bert").addition(lambda_=0.5)
    odd = shutil.copytree(raw["models"][1]["model"], tmp_path / "odd")
    raw["models"][1]["model"] = str(odd)
    name = "bert.embeddings.word_embeddings.weight"
    rewrite(odd, lambda t: t.update({name: torch.cat([t[name], t[name][:1]])}))
    config = json.loads((odd / "config.json").read_text())
    config["vocab_size"] += 1
    (odd / "config.json").write_text(json.dumps(config))
    with raises(CheckpointError, where=odd):
        merge_to_folder(recipe(raw), tmp_path / "out", options)
    truncating = options.model_copy(update={"unsafe_truncate_embeddings": True})
    merge_to_folder(recipe(raw), tmp_path / "out", truncating)
    assert read(tmp_path / "out")[name].shape == read(tiny("bert").base)[name].shape


# One plan, many λ.


@pytest.fixture
def plan(tiny, options):
    raw = tiny("bert").addition(lambda_=0.5, normalize="mean")
    with MergePlan.open(recipe(raw), options) as plan:
        pass
    return plan


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lambda": 0.25},
        {"lambda": 0, "weight.Male": -2.0},
        {"weight.Female": 0.0, "weight.Other": 3},
        {"density": 0.5},
    ],
)
def test_a_program_at_other_numbers_is_that_of_a_plan_of_its_own(plan, options, settings):
    with MergePlan.open(plan.recipe.with_settings(settings), options) as other:
        expected = other.at()
    assert plan.at(settings) == expected
    assert plan.coefficients(settings) == expected.coefficients


@pytest.mark.parametrize("where", ["recipe", "model"])
def test_numbers_beside_gradients_and_filters(tiny, options, where):
    raw = tiny("bert").addition(lambda_=FILTERED if where == "recipe" else 0.5)
    raw["models"][0]["parameters"]["weight"] = [0, 1] if where == "model" else 2.0
    settings = {"weight.Male": 0.5} if where == "recipe" else {"lambda": 0.1}
    with MergePlan.open(recipe(raw), options) as one:
        pass
    with MergePlan.open(recipe(raw).with_settings(settings), options) as other:
        assert one.at(settings) == other.at()
    assert one.at(settings).coefficients.lambda_eff is None
    with raises(RecipeError, where="r.yml"):
        one.at({"lambda": 1.0} if where == "recipe" else {"weight.Female": 1.0})


@pytest.mark.parametrize(
    "settings",
    [
        {"weight.Nobody": 1.0},
        {"lambda.Female": 1.0},
        {"lamda": 1.0},
        {"lambda": float("nan")},
        {"lambda": "much"},
        {"lambda": True},
        {"normalize": "norm"},
        {"head": "base"},
        {"worst": "Male"},
    ],
)
def test_a_plan_refuses_what_a_recipe_refuses(plan, settings):
    with pytest.raises(RecipeError):
        plan.at(settings)


def test_the_worst_group_can_be_replaced_by_another_candidate(tiny, options):
    with MergePlan.open(recipe(tiny("bert").injection(worst="Male")), options) as plan:
        pass
    female = str(tiny("bert").groups["Female"])
    coefficients = plan.at({"worst": "Female", "lambda": 0.25}).coefficients
    assert {m: v for m, v in coefficients.lambdas.items() if v} == {female: 0.25}
    assert coefficients.start == str(tiny("bert").fft)
    assert coefficients.lambda_eff == coefficients.lambda_l1 == 0.25
    with raises(RecipeError, got="Nobody"):
        plan.at({"worst": "Nobody"})


def test_other_numbers_touch_no_file_and_plan_nothing(plan, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a file was touched, or something was planned again")

    for name in ("builtins.open", "os.open", "os.stat", "pathlib.Path.stat"):
        monkeypatch.setattr(name, fail)
    monkeypatch.setattr(
        "mergekit_fair.merging.configuration.MergeConfiguration.model_validate", fail
    )
    monkeypatch.setattr("mergekit_fair.merging.parameters.evaluated", fail)
    assert plan.at({"lambda": 0.1}).coefficients.lambda_eff == pytest.approx(0.1)


def test_a_family_is_opened_once(tiny, options, monkeypatch):
    from mergekit_fair.merging import plan as module

    opened, opener = [], module.open_models
    monkeypatch.setattr(
        module,
        "open_models",
        lambda made, *a, **k: opened.append(made.method) or opener(made, *a, **k),
    )
    plans = PlanCache(options)
    bert = tiny("bert")
    for scale, weight in itertools.product((0.0, 0.5, 1), (1.0, -2)):
        made = recipe(bert.addition(lambda_=scale)).with_settings({"weight.Male": weight})
        eff = plans.program(made).coefficients.lambda_eff
        assert eff == pytest.approx(scale * (2 + weight))
    assert plans.program(recipe(bert.addition())).coefficients.lambda_eff == 3.0  # the defaults
    for worst in ("Male", "Female"):
        plans.program(recipe(bert.injection(worst=worst, lambda_=0.2)))
    assert opened == ["subgroup_task_addition", "worst_group_injection"]
    plans.program(recipe(bert.addition(normalize="mean")))
    assert len(opened) == 3


def test_recipes_of_one_family():
    raw = {"merge_method": "m", "parameters": {"lambda": 1, "normalize": "sum"}, "models": []}
    alike = {"merge_method": "m", "parameters": {"normalize": "sum", "worst": "x"}, "models": []}
    assert family(raw) == family(alike)
    for other in (
        raw | {"dtype": "float32"},
        raw | {"parameters": {"lambda": [0, 1], "normalize": "sum"}},
        raw | {"parameters": {"lambda": 1, "normalize": "mean"}},
        raw | {"parameters": {"lambda": 1, "normalize": "sum", "flag": True}},
        raw | {"models": [{"model": "a"}]},
    ):
        assert family(other) != family(raw)


def test_a_number_behind_a_models_filter_is_no_free_number(tiny, options):
    """Tensors that the filter does not match take the recipe's own weight."""
    raw = tiny("bert").addition(weight=2.0)
    raw["models"][0]["parameters"]["weight"] = [{"filter": "attention", "value": 0.5}]
    plans = PlanCache(options)
    for weight in (2.0, 3.0):
        made = recipe(raw | {"parameters": {"weight": weight}})
        with MergePlan.open(made, options) as plan:
            assert plans.program(made) == plan.at()


def test_a_recipe_of_another_family_is_refused(plan, tiny):
    with raises(RecipeError, where="r.yml"):
        plan.of(recipe(tiny("bert").addition()))


# What is kept in memory between points.


def test_points_that_will_not_come_again_keep_no_direction(tiny, monkeypatch):
    """8 bytes an element would push checkpoints out of memory."""
    from mergekit_fair.merging import in_memory

    made, kept = [], in_memory.KeptDirection
    monkeypatch.setattr(in_memory, "KeptDirection", lambda *a: made.append(a) or kept(*a))
    family_of = tiny("bert")
    composer = Composer(room=(total := 10_000_000))
    size = 8 * sum(tensor.numel() for tensor in read(family_of.base).values())
    left = composer._checkpoints._left[composer.device]
    assert left == total
    dict(composer.compose(recipe(family_of.addition(lambda_=0.3))))
    held = composer._checkpoints._left[composer.device]
    assert made == []
    dict(composer.compose(recipe(family_of.addition(lambda_=0.3)), reuse_direction=True))
    assert composer._checkpoints._left[composer.device] == held - size
    dict(composer.compose(recipe(family_of.addition(lambda_=0.7))))
    assert composer._checkpoints._left[composer.device] == held


def test_tensors_are_written_where_they_belong(tiny):
    """Into a model's own parameters where shape and dtype fit; the bits are the same."""
    family_of = tiny("bert")
    made = recipe(family_of.addition(lambda_=0.3))
    expected = dict(Composer().compose(made))
    slots = {name: torch.full_like(tensor, 7.0) for name, tensor in expected.items()}
    slots["classifier.bias"] = slots["classifier.bias"].double()
    for reuse in (False, True, True):
        composer = Composer()
        composed = dict(composer.compose(made, into=slots, reuse_direction=reuse))
        assert equal(composed, expected)
        inside = [name for name in slots if composed[name].data_ptr() == slots[name].data_ptr()]
        assert sorted(inside) == sorted(slots.keys() - {"classifier.bias"})
