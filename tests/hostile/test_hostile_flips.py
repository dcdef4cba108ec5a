"""A single flipped bit: the merge refuses, or is the arithmetic of the numbers that are there."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from checkpoints import GROUPS, read
from mergekit.options import MergeOptions

from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

FLIPS = 200
SCALE = 0.3


def exact(scene):
    """The merge in dense float64 of what safetensors' own reader finds; a bound of its error."""
    base = {name: tensor.double() for name, tensor in read(scene.family.base).items()}
    groups = [read(scene.family.groups[name]) for name in GROUPS]
    for name, start in base.items():
        vectors = [group[name].double() - start for group in groups]
        size = start.abs() + SCALE * sum(vector.abs() for vector in vectors)
        yield name, start + SCALE * sum(vectors), 2.0**-23 * size


def require_exact(scene, out):
    found = read(out)
    assert found.keys() == read(scene.family.base).keys()
    for name, expected, bound in exact(scene):
        assert bool(torch.isfinite(found[name]).all()), name
        assert bool(((found[name].double() - expected).abs() <= bound).all()), name


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_flipped_bits(scene):
    recipe = Recipe.from_mapping(scene.addition(lambda_=SCALE), "r.yml")
    options, out = MergeOptions(quiet=True), scene.here / "out"
    chance = random.Random(1)
    refused = {"header": 0, "data": 0}
    for turn in range(FLIPS):
        folder = scene.here / chance.choice(("base", "Male"))
        file = folder / "model.safetensors"
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        part, places = ("header", (0, start)) if turn % 2 else ("data", (start, len(content)))
        place, bit = chance.randrange(*places), chance.randrange(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        message = None
        try:
            merge_to_folder(recipe, out, options)
        except (CheckpointError, RecipeError) as error:
            message = str(error)
        if message is None:
            require_exact(scene, out)
            shutil.rmtree(out)
        else:
            refused[part] += 1
            assert str(folder) in message, (place, bit)
            assert not [path for path in scene.here.iterdir() if "out" in path.name]
        file.write_bytes(content)
    # Only spaces and the unread part of the metadata may change; few bits make a number infinite.
    assert refused["header"] > FLIPS // 2 * 0.9
    assert refused["data"] < FLIPS // 2 * 0.1
