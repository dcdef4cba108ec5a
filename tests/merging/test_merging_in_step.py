"""What is read without mergekit is what mergekit reads: its imports take seconds, ours do not."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from mergekit import card as cards
from mergekit import common, config, merge_methods, options
from mergekit.parameter_resolver import resolve_parameters
from mergekit.tokenizer import config as tokenizers
from pydantic import BaseModel, ValidationError

from mergekit_fair.compat.mergekit import for_mergekit, mergekits_options
from mergekit_fair.merging import configuration
from mergekit_fair.merging.configuration import MergeConfiguration, models_in
from mergekit_fair.merging.merge_card import merge_card
from mergekit_fair.merging.merge_options import MergeOptions, shard_size
from mergekit_fair.merging.methods.registry import METHODS, register_methods, spec_of
from mergekit_fair.merging.parameters import evaluated

RECIPES = Path(__file__).parents[2] / "recipes"
SHAPES = Path(__file__).parents[1] / "published" / "shapes.yml"
CLASSES = [
    getattr(configuration, name)
    for name in dir(configuration)
    if isinstance(getattr(configuration, name), type)
    and getattr(configuration, name).__module__ == configuration.__name__
]


def mergekits(name: str) -> Any:
    """The class of that name."""
    return next(getattr(m, name) for m in (config, common, tokenizers) if hasattr(m, name))


def plain(annotation: Any) -> str:
    """A type as text: of classes their names, whatever module they are in; X | None as Optional."""
    arguments = get_args(annotation)
    if not arguments or not get_origin(annotation):
        return getattr(annotation, "__name__", str(annotation))
    if str(annotation).startswith("typing.Literal"):
        return f"Literal{list(arguments)}"
    origin = getattr(get_origin(annotation), "__name__", "")
    title = "Union" if origin in ("Union", "UnionType") else origin
    return f"{title}[{', '.join(map(plain, arguments))}]"


def fields(kind: type[BaseModel]) -> dict[str, tuple[str, Any, bool]]:
    """Name → type, default, whether it must be given."""
    return {
        name: (plain(field.annotation), field.default, field.is_required())
        for name, field in kind.model_fields.items()
    }


def recipes() -> list[dict[str, Any]]:
    """Every recipe of this repository, and every published shape."""
    _, shapes = yaml.safe_load_all(SHAPES.read_text())
    published = [shape["recipe"] for shape in shapes]
    assert len(published) > 80
    raws = []
    for text in (*(path.read_text() for path in sorted(RECIPES.rglob("*.yml"))), *published):
        try:
            raws.append(yaml.safe_load(text))
        except yaml.YAMLError:  # one of the shapes
            continue
    return [raw for raw in raws if isinstance(raw, dict) and "merge_method" in raw]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_fields_types_and_defaults(kind: type[BaseModel]) -> None:
    assert fields(kind) == fields(mergekits(kind.__name__))
    assert kind.model_config.get("frozen") == mergekits(kind.__name__).model_config.get("frozen")


def values(value: Any) -> Any:
    """Plain values, and of classes their names."""
    if isinstance(value, BaseModel):
        title = type(value).__name__.removeprefix("Ordered").replace("MergeConf", "Conf")
        return title, {name: values(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [values(item) for item in value]
    return type(value), value


def read(kind: Any, raw: Any) -> Any:
    """What is read, as plain values; or the type and text of what is raised."""
    try:
        return values(kind(raw))
    except ValidationError as error:
        return [(each["loc"], each["msg"]) for each in error.errors()]
    except Exception as error:
        return type(error), str(error)


def test_recipes_are_read_alike() -> None:
    assert len(recipes()) > 100
    for raw in recipes():
        assert read(MergeConfiguration.model_validate, raw) == read(_theirs, raw)


def _theirs(raw: Any) -> Any:
    return for_mergekit(raw, models_in)


@pytest.mark.parametrize(
    "change",
    [
        {"models": None},
        {"models": []},
        {"models": [{"model": 3}]},
        {"models": [{"model": "a+b+c"}]},
        {"models": [{"model": "a@b@c"}]},
        {"models": [{"model": "a@1+b@2"}]},
        {"models": [{"model": {"model": {"path": "x+y"}, "lora": "z"}}]},
        {"slices": [{"sources": [{"model": "a", "layer_range": [0, 1, 2]}]}], "models": None},
        {"slices": [{"sources": [{"model": "a", "layer_range": ["0", 4]}]}], "models": None},
        {"modules": {"x": {}}, "models": None},
        {"modules": {"x": {"models": [{"model": "a"}]}}, "models": None},
        {"tokenizer_source": "union", "tokenizer": {}},
        {"tokenizer_source": {"model": "a"}},
        {"tokenizer_source": 3},
        {"tokenizer": {"source": "base", "tokens": {"<x>": {"source": {"kind": "zero"}}}}},
        {"tokenizer": {"tokens": {"<x>": {"source": {"kind": "model_token", "model": "a"}}}}},
        {"tokenizer": {"tokens": {"<x>": {"source": "a", "force": "yes"}}}},
        {"parameters": {"t": [1, True, "x", 1e-3]}},
        {"parameters": {"t": [{"filter": "mlp", "value": [0, 1]}, {"value": 1}]}},
        {"parameters": {"t": [{"filter": "mlp", "value": 1}, 2]}},
        {"parameters": {"t": {"value": None}}},
        {"parameters": {"t": None}},
        {"parameters": {"t": []}},
        {"parameters": []},
        {"merge_method": 3},
        {"dtype": 32},
    ],
)
def test_odd_recipes_are_read_or_refused_alike(change: dict[str, Any]) -> None:
    raw = {"merge_method": "linear", "models": [{"model": "a"}], **change}
    assert read(MergeConfiguration.model_validate, raw) == read(_theirs, raw)


def test_models_have_one_text() -> None:
    for text in ("a", "a+b", "a@1", "a@1+b@2", "./x/y"):
        ours, theirs = (
            each.parse(text) for each in (configuration.ModelReference, common.ModelReference)
        )
        assert str(ours) == str(theirs) == text


def random_setting(draw: random.Random, depth: int = 0) -> Any:
    """A scalar, a gradient, or filters."""
    kind = draw.choice(("scalar", "gradient", "filters") if depth == 0 else ("scalar", "gradient"))
    scalars: list[Any] = [draw.choice((0, 1, 0.25, "1e-1", 0.7, True)) for _ in range(4)]
    if kind == "scalar":
        return scalars[0]
    if kind == "gradient":
        return scalars[: draw.randint(1, 4)]
    names = draw.sample(["attn", "mlp", "0", "*", None, "nothing"], draw.randint(1, 3))
    conditions = [{"value": random_setting(draw, 1), "filter": name} for name in names]
    return conditions[0] if draw.random() < 0.2 else conditions


def test_gradients_filters_and_precedence_are_resolved_alike() -> None:
    """Random settings of every method of this package, at random places."""
    register_methods()
    draw, compared = random.Random(0), 0
    for number in range(400):
        method = METHODS[number % len(METHODS)]
        numbers = [p for p in method.spec.parameters if p.value_type not in (str,)]
        blocks = [
            {p.name: random_setting(draw) for p in numbers if draw.random() < 0.6} for _ in range(2)
        ]
        raw = {
            "merge_method": method.spec.name,
            "base_model": "base",
            "models": [{"model": "a", "parameters": blocks[0]}],
            "parameters": blocks[1],
        }
        ours, theirs = MergeConfiguration.model_validate(raw), _theirs(raw)
        name = draw.choice(["l.0.attn.w", "l.3.mlp.w", "head"])
        place = draw.choice([0, 0.3, 0.5, 1])
        pairs = [
            (ours.parameters, theirs.parameters),
            (ours.models[0].parameters, theirs.models[0].parameters),
        ]
        for parameter, (mine, other) in itertools.product(method.spec.parameters, pairs):
            if mine and (key := parameter.name) in mine:
                check, theirs_at = parameter.validate, config.evaluate_setting
                expected = _outcome(theirs_at, name, other[key], place, validate=check)
                assert _outcome(evaluated, mine[key], name, place, check) == expected, raw
                compared += 1
    assert compared > 500


def _outcome(call: Any, *arguments: Any, **more: Any) -> Any:
    try:
        value = call(*arguments, **more)
    except Exception as error:
        return type(error).__name__
    return type(value), value


def test_options() -> None:
    theirs = options.MergeOptions
    assert fields(MergeOptions) == fields(theirs)
    for given in ({}, {"cuda": True}, {"gpu_rich": True}, {"device": "auto"}, {"quiet": True}):
        made = MergeOptions(**given)  # type: ignore[arg-type]
        assert made.model_dump() == theirs(**dict(given)).model_dump()
        assert mergekits_options(made) == theirs(**dict(given))
    assert mergekits_options(theirs(quiet=True)) == theirs(quiet=True)
    for text in ("1", "5B", "10m", "3k", 7):
        assert shard_size(text) == common.parse_kmb(text)  # type: ignore[arg-type]


def test_cards() -> None:
    """Of every recipe here, and of a method that has no page."""
    known = {method.spec.name for method in merge_methods.registered_methods()}
    compared = 0
    for raw in recipes():
        if raw["merge_method"] not in known:
            continue
        try:
            ours, theirs = MergeConfiguration.model_validate(raw), _theirs(raw)
        except (ValidationError, RuntimeError):
            continue
        expected = cards.generate_card(theirs, "the: recipe", name="merged")
        assert merge_card(ours, "the: recipe", "merged") == expected
        compared += 1
    assert compared > 60


def test_cards_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a", "lora"):
        (tmp_path / name).mkdir()
    raw = {
        "merge_method": "ties",
        "base_model": "./base",
        "models": [{"model": "./a+./lora"}, {"model": str(tmp_path / "a")}, {"model": "org/b@1"}],
    }
    ours, theirs = MergeConfiguration.model_validate(raw), _theirs(raw)
    assert merge_card(ours, "x", "y") == cards.generate_card(theirs, "x", name="y")


def test_bound_parameters_of_whole_recipes() -> None:
    """`resolve_parameters` with every default, over the recipes in `recipes/methods`."""
    from mergekit_fair.merging.parameters import constant_parameters
    from mergekit_fair.merging.recipe import Recipe

    compared = 0
    for path in sorted((RECIPES / "methods").glob("*.yml")):
        recipe = Recipe.load(path)
        if recipe.method == "fednova":  # reads its steps from files
            continue
        found = constant_parameters(recipe, spec_of(recipe.method))
        assert found is not None
        theirs = recipe.for_mergekit()
        by_model = {item.model: item.parameters for item in theirs.models}
        shared, own = resolve_parameters(
            spec_of(recipe.method),
            tensor_name="",
            inputs=dict.fromkeys(theirs.referenced_models(), ""),
            sources=lambda model, own=by_model, top=theirs.parameters: (own.get(model), top),
            base_model=theirs.base_model,
        )
        for name, value in shared.items():
            assert found[name] == value
        for model, values in own.items():
            if model != theirs.base_model:
                assert {name: found[name][str(model)] for name in values} == values
        compared += 1
    assert compared >= 7
