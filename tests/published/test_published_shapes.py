"""Recipes of the shapes that people publish: ours does what mergekit does, or says why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab import FAMILIES, build
from mergekit.merge_methods import registered_methods
from outcomes import ALONE, BOTH, OURS, SAME, VERDICTS, compare, tensors
from shapes import REFUSED_BY_MERGEKIT, SHAPES, Shape
from shapes_table import ALL_FAMILIES, DOCUMENT, document

from mergekit_fair.merging.methods.registry import is_own
from mergekit_fair.merging.recipe import Recipe

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
    outcome = compare(shape.recipe, tmp_path, changes)
    if shape.refused is not None:
        assert outcome.verdict == (BOTH if shape.reason is None else OURS), outcome
        assert shape.refused in str(outcome.error)
    elif family in REFUSED_BY_MERGEKIT:
        assert outcome.verdict == ALONE, outcome
        base = Recipe.from_text(shape.recipe, "r.yml").configuration().referenced_models()[0]
        assert tensors(tmp_path / "ours").keys() == tensors(Path(base.model.path)).keys()
    else:
        assert outcome.verdict == SAME, outcome


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


def test_every_family_was_measured() -> None:
    counts = yaml.safe_load(ALL_FAMILIES.read_text(encoding="utf-8"))
    assert list(counts) == list(FAMILIES)
    assert {verdict for each in counts.values() for verdict in each} <= set(VERDICTS)
    assert sum(counts["llama"].values()) == len(SHAPES)


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document()
