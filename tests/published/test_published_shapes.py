"""Recipes of the shapes that people publish: ours does what mergekit does, or says why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lab import FAMILIES, build
from mergekit.merge import run_merge
from mergekit.merge_methods import registered_methods
from mergekit.options import MergeOptions
from safetensors.torch import load_file
from shapes import REFUSED_BY_MERGEKIT, SHAPES, Shape
from shapes_table import DOCUMENT, document

from mergekit_fair.compat.mergekit import forget_models
from mergekit_fair.errors import FairError
from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

PLAIN: dict[str, Any] = {}
# What a much used notebook passes with every recipe.
NOTEBOOK = {"copy_tokenizer": True, "allow_crimes": True, "out_shard_size": 10**9}
NOTEBOOK |= {"lazy_unpickle": True}


def _cases() -> Iterator[Any]:
    for shape in SHAPES:
        first = shape.families[0]
        runs = [(family, PLAIN, family) for family in shape.families]
        runs.append((first, NOTEBOOK, "notebook"))
        for index, (family, changes, name) in enumerate(runs):
            marks = [pytest.mark.slow] if index else []
            yield pytest.param(shape, family, changes, id=f"{shape.title} ({name})", marks=marks)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`lab("llama")` → the folder in which the shapes' names lead to models; read only."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = build(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


def options(out: Path, **changes: Any) -> MergeOptions:
    settings = {"quiet": True, "random_seed": 7, "write_model_card": False} | changes
    return MergeOptions(lora_merge_cache=f"{out}.adapters", **settings)


def merged_by_mergekit(text: str, out: Path, changes: dict[str, Any]) -> Exception | None:
    """What it raises. Its models are a set; in recipe order, it takes the same one every time."""
    forget_models()
    try:
        config = OrderedConfiguration.model_validate(yaml.safe_load(text))
        run_merge(config, str(out), options(out, **changes))
    except Exception as error:  # whatever it likes
        return error
    return None


def merged_by_us(text: str, out: Path, changes: dict[str, Any]) -> FairError | None:
    try:
        merge_to_folder(Recipe.from_text(text, "r.yml"), out, options(out, **changes))
    except FairError as error:
        assert not out.exists()
        return error
    return None


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def assert_same(ours: Path, stock: Path) -> None:
    """Names, bits, and every file that mergekit writes beside the weights."""
    left, right = tensors(ours), tensors(stock)
    assert left.keys() == right.keys()
    for name, tensor in right.items():
        assert left[name].dtype == tensor.dtype, name
        assert torch.equal(left[name].view(torch.uint8), tensor.view(torch.uint8)), name
    for file in stock.iterdir():
        if file.suffix == ".json" and not file.name.endswith(".index.json"):
            assert content(ours / file.name) == content(file), file.name
        elif file.suffix != ".safetensors":
            assert (ours / file.name).read_bytes() == file.read_bytes(), file.name
    held = {str(tensor.dtype).removeprefix("torch.") for tensor in left.values()}
    assert {json.loads((ours / "config.json").read_text())["dtype"]} == held


def content(file: Path) -> dict[str, Any]:
    """Without what tells how a tokenizer was loaded, and without the dtype.

    mergekit writes the recipe's, also where the file holds another one.
    """
    told = ("dtype", "is_local", "local_files_only")
    read = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in read.items() if key not in told}


@pytest.mark.parametrize(("shape", "family", "changes"), list(_cases()))
def test_a_published_shape(
    shape: Shape,
    family: str,
    changes: dict[str, Any],
    lab: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(lab(family))
    ours, stock = tmp_path / "ours", tmp_path / "stock"
    error = merged_by_us(shape.recipe, ours, changes)
    stock_error = merged_by_mergekit(shape.recipe, stock, changes)
    if shape.refused is not None:
        assert shape.refused in str(error)
        assert (stock_error is None) == (shape.reason is not None), stock_error
    elif family in REFUSED_BY_MERGEKIT:
        assert error is None
        assert stock_error is not None
        base = Recipe.from_text(shape.recipe, "r.yml").configuration().referenced_models()[0]
        assert tensors(ours).keys() == tensors(Path(base.model.path)).keys()
    else:
        assert (error, stock_error) == (None, None)
        assert_same(ours, stock)


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.refused is None], ids=lambda shape: shape.title
)
def test_every_ignored_key_is_said(shape: Shape) -> None:
    said = Recipe.from_text(shape.recipe, "r").warnings
    keys = [re.search(r"key '(\w+)'", text) or re.search(r"(\w+): ", text[2:]) for text in said]
    assert {match[1] for match in keys if match} == set(shape.ignored)


def mappings(value: Any, ignored: tuple[str, ...], key: str = "") -> Iterator[dict[str, Any]]:
    """All but those whose keys are names of the user's own, and what is ignored as a whole."""
    if isinstance(value, list):
        for item in value:
            yield from mappings(item, ignored)
    elif isinstance(value, dict):
        if key not in ("modules", "tokens"):
            yield value
        for name, item in value.items():
            if name not in ignored:
                yield from mappings(item, ignored, name)


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.refused is None], ids=lambda shape: shape.title
)
def test_an_unknown_key_is_said_wherever_it_stands(shape: Shape) -> None:
    said = Recipe.from_text(shape.recipe, "r").warnings
    raw = json.loads(json.dumps(yaml.safe_load(shape.recipe)))  # anchors become copies
    for block in list(mappings(raw, shape.ignored)):
        block["colour"] = 1
        more = Recipe.from_mapping(raw, "r").warnings
        assert sum("unknown key 'colour'" in text for text in more) == 1, block
        del block["colour"]
    assert set(Recipe.from_mapping(raw, "r").warnings) <= set(said)


def test_shapes_are_many_and_of_every_method() -> None:
    methods = {
        yaml.safe_load(shape.recipe)["merge_method"] for shape in SHAPES if shape.refused is None
    }
    stock = {method.spec.name for method in registered_methods()}
    assert methods == {name for name in stock if not is_own(name)}
    assert len(SHAPES) == len({shape.title for shape in SHAPES}) >= 60
    assert {family for shape in SHAPES for family in shape.families} == set(FAMILIES)


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()
