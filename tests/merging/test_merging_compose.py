"""What is composed in memory equals the merged file bit for bit."""

import itertools
import shutil

import pytest
import torch
from checkpoints import ARCHITECTURES, read, rewrite
from safetensors.torch import save_file

from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.in_memory import Composer, RandomControl
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder


def random_control(*models, **settings):
    return dict(RandomControl(*models, **settings))


LAYERED = tuple(name for name in ARCHITECTURES if name != "vit")


def recipe(raw):
    return Recipe.from_mapping(raw, "r.yml")


def same_bits(left, right):
    return left.dtype == right.dtype and torch.equal(
        left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8)
    )


def changed(raw, *, weight=None, top=None, drop=()):
    if weight is not None:
        raw["models"][1]["parameters"]["weight"] = weight
    raw = {key: value for key, value in raw.items() if key not in drop}
    return raw | (top or {})


FILTERED = [
    {"filter": "attention", "value": -0.5},
    {"filter": "classifier", "value": 0},
    {"value": 1},
]
SETTINGS = {
    "scalar": lambda family: family.addition(lambda_=0.3),
    "zero": lambda family: family.addition(lambda_=0),
    "mean": lambda family: family.addition(lambda_=0.3, normalize="mean"),
    "head": lambda family: family.addition(lambda_=0.3, head="base"),
    "weights": lambda family: changed(family.addition(lambda_=0.3), weight=-0.5),
    "filters": lambda family: changed(family.addition(lambda_=FILTERED), weight=FILTERED),
    "bfloat16": lambda family: changed(family.addition(lambda_=0.3), top={"dtype": "bfloat16"}),
    "out_dtype": lambda family: changed(family.addition(lambda_=0.3), top={"out_dtype": "float16"}),
    "no dtype": lambda family: changed(family.addition(lambda_=0.3), drop=["dtype"]),
    "injection": lambda family: family.injection(worst="Male", lambda_=0.4),
}
GRADIENTS = {
    "weight": lambda family: changed(family.addition(lambda_=0.7), weight=[0, 1]),
    "lambda": lambda family: family.addition(lambda_=[0.1, 0.5, 0.2]),
    "filtered": lambda family: family.addition(
        lambda_=[{"filter": "attention", "value": [0, 1]}, {"value": [1, 0.25]}]
    ),
    "injection": lambda family: family.injection(worst="Male", lambda_=[0, 1]),
}
CASES = [
    *((architecture, SETTINGS[name]) for architecture in ("bert", "vit") for name in SETTINGS),
    *((architecture, GRADIENTS[name]) for architecture in LAYERED for name in GRADIENTS),
]
IDS = [
    *(f"{architecture}-{name}" for architecture in ("bert", "vit") for name in SETTINGS),
    *(f"{architecture}-gradient-{name}" for architecture in LAYERED for name in GRADIENTS),
]


@pytest.mark.parametrize(("architecture", "make"), CASES, ids=IDS)
def test_equals_the_merged_file_bit_for_bit(tiny, tmp_path, options, architecture, make):
    made = recipe(make(tiny(architecture)))
    merge_to_folder(made, tmp_path / "out", options)
    file = read(tmp_path / "out")
    composed = dict(Composer().compose(made))
    assert composed.keys() == file.keys()
    assert all(same_bits(composed[name], file[name]) for name in file)


@pytest.mark.parametrize("architecture", LAYERED)
def test_a_layer_gradient_goes_from_the_first_layer_to_the_last(tiny, architecture):
    """Tensors outside the layers take the gradient's first value, as in mergekit."""
    family = tiny(architecture)
    base = read(family.base)
    whole = dict(Composer().compose(recipe(family.addition(lambda_=1.0))))
    found = dict(Composer().compose(recipe(family.addition(lambda_=[0, 1]))))
    in_last = {name for name in base if ".1." in name}
    assert 0 < len(in_last) < len(base)
    for name, tensor in found.items():
        assert same_bits(tensor, whole[name] if name in in_last else base[name]), name


def test_integer_buffers_equal_the_merged_file(tiny, tmp_path, options):
    """mergekit's BERT keeps its position ids as integers whatever the recipe's dtype."""
    family = tiny("bert")
    raw = family.addition(lambda_=0.3)
    name = "bert.embeddings.position_ids"
    for key, folder in {"base": family.base, **family.groups}.items():
        copy = shutil.copytree(folder, tmp_path / key)
        rewrite(copy, lambda tensors: tensors.update({name: torch.arange(64)}))
    raw["base_model"] = str(tmp_path / "base")
    for item in raw["models"]:
        item["model"] = str(tmp_path / item["parameters"]["group"])
    merge_to_folder(recipe(raw), tmp_path / "out", options)
    file, composed = read(tmp_path / "out"), dict(Composer().compose(recipe(raw)))
    assert file[name].dtype == torch.int64
    assert all(same_bits(composed[key], file[key]) for key in file)
    rewrite(tmp_path / "Male", lambda tensors: tensors[name].add_(1))
    with pytest.raises(CheckpointError, match="integer tensor"):
        merge_to_folder(recipe(raw), tmp_path / "differ", options)
    with pytest.raises(CheckpointError, match="integer tensor"):
        list(Composer().compose(recipe(raw)))


def test_one_composer_serves_many_recipes_from_tensors_loaded_once(tiny, monkeypatch):
    family = tiny("bert")
    loads = []
    from mergekit_fair.checkpoints import cache

    opened = cache.LazyCheckpoint
    monkeypatch.setattr(
        cache, "LazyCheckpoint", lambda *paths: loads.append(paths[0]) or opened(*paths)
    )
    composer = Composer()
    base = {name: tensor.clone() for name, tensor in composer.tensors(str(family.base)).items()}
    scales = (0.5, 0.0, 1.0, 0.5)
    made = [dict(composer.compose(recipe(family.addition(lambda_=scale)))) for scale in scales]
    assert sorted(loads) == sorted([str(family.base), *map(str, family.groups.values())])
    assert all(same_bits(made[0][name], made[3][name]) for name in base)
    assert all(same_bits(made[1][name], base[name]) for name in base)
    assert not any(same_bits(made[0][name], made[2][name]) for name in base)
    held = composer.tensors(str(family.base))
    assert all(same_bits(held[name], base[name]) for name in base)


@pytest.mark.parametrize("room", [0, 10_000_000_000], ids=["streamed", "held"])
def test_neither_the_room_nor_a_sum_that_is_kept_changes_a_bit(tiny, room):
    """λ back and forth, another family between: the sum belongs to its family alone."""
    family = tiny("bert")
    composer = Composer(room=room)
    for make, scale in (
        (family.addition, 0.3),
        (family.addition, 0.0),
        (family.addition, 0.7),
        (lambda lambda_: family.injection(worst="Male", lambda_=lambda_), 0.4),
        (lambda lambda_: changed(family.addition(lambda_=lambda_), weight=FILTERED), 0.5),
        (family.addition, 0.3),
    ):
        made = recipe(make(lambda_=scale))
        expected = dict(Composer().compose(made))
        found = dict(composer.compose(made, reuse_direction=True))
        assert found.keys() == expected.keys()
        assert all(same_bits(found[name], expected[name]) for name in expected)


def test_a_composer_without_room_holds_nothing(tiny):
    from mergekit_fair.checkpoints.cache import LazyCheckpoint

    family = tiny("bert")
    composer = Composer(room=0)
    assert isinstance(composer.tensors(str(family.base)), LazyCheckpoint)
    assert isinstance(Composer().tensors(str(family.base)), dict)


def test_the_order_of_the_models_changes_no_bit(tiny):
    family = tiny("llama")
    raw = family.addition(lambda_=0.3)
    composer = Composer()
    made = [
        dict(composer.compose(recipe(raw | {"models": list(order)})))
        for order in itertools.permutations(raw["models"])
    ]
    assert len(made) == 6
    for other in made[1:]:
        assert all(same_bits(other[name], made[0][name]) for name in made[0])


def test_replaced_models_stand_for_other_tensors(tiny):
    family = tiny("bert")
    composer = Composer()
    base = composer.tensors(str(family.base))
    for path in family.groups.values():
        composer.replace(str(path), base)
    made = dict(composer.compose(recipe(family.addition(lambda_=1.0))))
    assert all(torch.equal(made[name], base[name]) for name in base)
    composer.replace(str(family.groups["Male"]), {})
    with pytest.raises(CheckpointError) as caught:
        list(composer.compose(recipe(family.addition(lambda_=1.0))))
    assert str(caught.value).startswith(f"{family.groups['Male']}: has no tensor ")


def test_recipes_that_are_not_composed_in_memory(tiny):
    family = tiny("bert")
    text = (
        "r.yml: only local models, without slices and tokenizer changes, are composed in memory. "
        "Merge it to a folder instead."
    )
    sources = [{"model": str(family.base), "layer_range": [0, 1]}]
    for raw in (
        {"merge_method": "passthrough", "slices": [{"sources": sources}]},
        family.addition() | {"tokenizer_source": "base"},
        family.addition() | {"tokenizer": {"source": "base"}},
    ):
        with pytest.raises(RecipeError) as caught:
            list(Composer().compose(recipe(raw)))
        assert str(caught.value) == text


def test_the_same_tensors_under_the_configuration_of_another_architecture(tiny, tmp_path):
    raw = tiny("bert").addition()
    raw["models"].append({"model": str(tmp_path), "parameters": {"group": "new"}})
    save_file(read(tiny("bert").base), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((tiny("distilbert").base / "config.json").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        list(Composer().compose(recipe(raw)))
    assert str(caught.value) == (
        f"{tmp_path}: its config.json has other architectures than the base's "
        f"({tiny('bert').base}); got ['DistilBertForSequenceClassification']; allowed: "
        "BertForSequenceClassification. Merge models of one architecture, fine-tuned from this "
        "base."
    )


class TestRandomControl:
    def test_every_tensor_moves_as_far_as_the_model_did(self, tiny):
        family = tiny("bert")
        base, model = read(family.base), read(family.groups["Male"])
        control = random_control(base, model, seed=1, name="Male")
        assert control.keys() == base.keys()
        for name, start in base.items():
            moved, noise = (model[name] - start).double(), (control[name] - start).double()
            assert control[name].dtype == start.dtype
            torch.testing.assert_close(noise.norm(), moved.norm(), rtol=1e-4, atol=0)
            if start.numel() > 1000:
                cosine = (noise * moved).sum() / (noise.norm() * moved.norm())
                assert abs(float(cosine)) < 0.2

    def test_depends_on_seed_group_and_tensor_only(self, tiny):
        family = tiny("bert")
        base, model = read(family.base), read(family.groups["Male"])
        backwards = dict(reversed(base.items()))
        first = random_control(base, model, seed=1, name="Male")
        torch.rand(7)  # the global generator has no part in it
        again = random_control(backwards, model, seed=1, name="Male")
        assert all(same_bits(first[name], again[name]) for name in base)
        for other in ({"seed": 2, "name": "Male"}, {"seed": 1, "name": "Female"}):
            control = random_control(base, model, **other)
            assert not torch.equal(control["classifier.weight"], first["classifier.weight"])
        same_shape = ("bert.encoder.layer.0.output.dense.bias", "bert.pooler.dense.bias")
        left, right = (first[name] - base[name] for name in same_shape)
        assert not torch.allclose(left / left.norm(), right / right.norm(), atol=0.01)

    def test_a_model_that_did_not_move(self):
        base = {"w": torch.ones(3), "n": torch.arange(2), "empty": torch.zeros(0)}
        control = random_control(base, base, seed=0, name="a")
        assert all(torch.equal(control[name], base[name]) for name in base)
        assert control["n"].dtype == torch.int64

    def test_keeps_the_dtype(self):
        base = {"w": torch.zeros(200, dtype=torch.bfloat16)}
        model = {"w": torch.ones(200, dtype=torch.bfloat16)}
        control = random_control(base, model, seed=0, name="a")["w"]
        assert control.dtype == torch.bfloat16
        assert float(control.double().norm()) == pytest.approx(200**0.5, rel=0.01)
