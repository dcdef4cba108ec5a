"""Heads that were made independently are refused; fine-tuned ones pass."""

import shutil

import pytest
import torch
from checkpoints import rewrite

from mergekit_fair.checkpoints.reader import open_folder
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.shared_heads import head_weights, require_shared_heads
from mergekit_fair.merging.to_disk import merge_to_folder


def fresh_head(tensors):
    """A head as `from_pretrained` of a bare encoder makes it.

    With 64 weights a cosine above 0.1 is likely by chance; this seed gives smaller ones.
    """
    torch.manual_seed(2)
    for name in tensors:
        if name.startswith(("classifier", "score")):
            tensors[name] = 0.02 * torch.randn(tensors[name].shape)


@pytest.mark.parametrize("architecture", ["bert", "vit", "llama"])
def test_a_head_of_its_own_is_refused_unless_the_recipe_decides(
    tiny, tmp_path, options, architecture
):
    family = tiny(architecture)
    stranger = shutil.copytree(family.groups["Male"], tmp_path / "stranger")
    rewrite(stranger, fresh_head)
    raw = family.addition(lambda_=0.5)
    raw["models"][1]["model"] = str(stranger)
    for attempt in (
        lambda: list(Composer().compose(Recipe.from_mapping(raw, "r.yml"))),
        lambda: merge_to_folder(Recipe.from_mapping(raw, "r.yml"), tmp_path / "out", options),
    ):
        with pytest.raises(RecipeError) as caught:
            attempt()
        text = str(caught.value)
        assert text.startswith(f"r.yml: the classification head of {stranger} is unrelated to")
        assert text.endswith("or say what to do with parameters.head (merge, base, first).")
    assert not (tmp_path / "out").exists()
    for policy in ("merge", "base", "first"):
        raw["parameters"]["head"] = policy
        assert list(Composer().compose(Recipe.from_mapping(raw, "r.yml")))


HEAD = {"classifier.weight", "classifier.bias"}


def test_fine_tuned_heads_and_encoders_without_heads_pass(tiny, tmp_path):
    family = tiny("bert")
    models = [open_folder(path) for path in (family.base, family.fft, *family.groups.values())]
    require_shared_heads(models, HEAD, "r.yml")
    assert head_weights(models[0], HEAD).shape == (2 * 32,)
    place = shutil.copytree(family.base, tmp_path / "bare")
    bare = open_folder(rewrite(place, lambda tensors: tensors.pop("classifier.weight")))
    assert head_weights(bare, HEAD) is None
    require_shared_heads([bare, bare], HEAD, "r.yml")
