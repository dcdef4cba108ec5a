"""Layers: gradients as mergekit reads them, also where it has no definition; slices and modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import read
from click.testing import CliRunner
from mergekit.options import MergeOptions
from refusals import raises
from zoo import BY_NAME, Tensors, Trio, loaded, write_trio

from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.checkpoints.layout import Layout
from mergekit_fair.cli import main
from mergekit_fair.compat.mergekit import disk_plan, known_tensors
from mergekit_fair.errors import RecipeError
from mergekit_fair.merging.architecture import own_architecture
from mergekit_fair.merging.architecture_records import own_record
from mergekit_fair.merging.in_memory import Composer
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.schema import dump_yaml

OPTIONS: Any = MergeOptions(quiet=True)
FP32 = (torch.float32,) * 3
OWN, STOCK = "subgroup_task_addition", "task_arithmetic"


def merged(raw: dict[str, Any], out: Path) -> Tensors:
    merge_to_folder(Recipe.from_mapping(raw, "r.yml"), out, OPTIONS)
    return read(out)


def with_gradients(trio: Trio, method: str) -> dict[str, Any]:
    weights = {"a": [0.1, 0.9], "b": [{"filter": "dense", "value": [1, 0]}, {"value": 0.5}]}
    models = []
    for group, weight in weights.items():
        parameters: dict[str, Any] = {"weight": weight}
        models.append({"model": str(getattr(trio, group)), "parameters": parameters})
        if method == OWN:
            parameters["group"] = group
    raw = {"merge_method": method, "base_model": str(trio.base), "models": models}
    return raw | {"dtype": "float32"}


@pytest.mark.parametrize(
    "family",
    ["bert", "roberta", "deberta-v2", "qwen2", "gpt2", "t5-lm", "vit", "dinov2", "clip", "resnet"],
)
def test_a_gradient_means_what_it_means_in_mergekit(family: str, tmp_path: Path) -> None:
    """Numbers between dots are layers: the same weights as in a stock merge, tensor by tensor."""
    trio = write_trio(tmp_path, BY_NAME[family], FP32)
    own = merged(with_gradients(trio, OWN), tmp_path / "own")
    stock = merged(with_gradients(trio, STOCK), tmp_path / "stock")
    base = read(trio.base)
    assert own.keys() == stock.keys() == base.keys()
    for name, tensor in own.items():
        if tensor.is_floating_point():  # stock adds float32 numbers, this package float64
            torch.testing.assert_close(tensor, stock[name], atol=1e-6, rtol=1e-6)
    assert not all(torch.equal(own[name], base[name]) for name in base)


@pytest.mark.parametrize("family", BY_NAME)
def test_tensors_their_order_and_places_are_mergekits(family: str, tmp_path: Path) -> None:
    """What a gradient is read by, asked and from the cache, beside the plan of its own engine."""
    torch.manual_seed(0)
    row, base = BY_NAME[family], tmp_path / "base"
    row.cls(row.config()).save_pretrained(base)
    (tmp_path / "a").symlink_to(base)
    recipe = Recipe.from_mapping(
        {
            "merge_method": OWN,
            "base_model": str(base),
            "models": [{"model": str(tmp_path / "a"), "parameters": {"group": "a"}}],
            "parameters": {"lambda": [0, 1]},
        },
        "r.yml",
    )
    reference, tensors = recipe.configuration().referenced_models()[0], tensor_infos(base)
    asked = own_architecture(reference, tensors, Layout(base))
    kept = own_architecture(reference, tensors, Layout(base))
    assert kept.weights == asked.weights
    info, is_mergekits = own_record(reference, tensors, Layout(base))
    assert (asked.info, asked.is_mergekits) == (info, is_mergekits)
    config = recipe.for_mergekit()
    with known_tensors(dict.fromkeys(config.referenced_models(), tensors)):
        plan = disk_plan(config, asked.info, OPTIONS)
    planned = [
        (save.tensor_name, t, _forced(save)) for save, t in zip(plan.saved, plan.t, strict=True)
    ]
    ours = [(weight.name, weight.place, weight.dtype) for weight in kept.weights]
    # What is made of names is written in their order.
    in_order = planned if is_mergekits else sorted(planned)
    assert [each for each in ours if each[0] in tensors] == in_order
    assert {name for name, _, _ in planned} == tensors.keys()


def _forced(save: Any) -> Any:
    return next(iter(save.tensor_task.gather_tensors.weight_info.values())).force_dtype


def sliced(trio: Trio, *ranges: tuple[int, int], **top: Any) -> dict[str, Any]:
    def sources(span: tuple[int, int]) -> list[dict[str, Any]]:
        groups = [
            {
                "model": str(getattr(trio, group)),
                "layer_range": list(span),
                "parameters": {"group": group, "weight": weight},
            }
            for group, weight in (("a", 0.3), ("b", 0.7))
        ]
        return [{"model": str(trio.base), "layer_range": list(span)}, *groups]

    raw = {"merge_method": OWN, "base_model": str(trio.base), "dtype": "float32"}
    return raw | {"slices": [{"sources": sources(span)} for span in ranges]} | top


def whole(trio: Trio) -> dict[str, Any]:
    models = [
        {"model": str(getattr(trio, group)), "parameters": {"group": group, "weight": weight}}
        for group, weight in (("a", 0.3), ("b", 0.7))
    ]
    raw = {"merge_method": OWN, "base_model": str(trio.base), "dtype": "float32"}
    return raw | {"models": models}


@pytest.mark.parametrize("family", ["bert", "qwen2", "vit", "llama-lm"])
def test_all_layers_as_slices_are_the_whole(family: str, tmp_path: Path) -> None:
    trio = write_trio(tmp_path, BY_NAME[family], FP32)
    expected = merged(whole(trio), tmp_path / "whole")
    for index, ranges in enumerate([[(0, 2)], [(0, 1), (1, 2)]]):
        result = merged(sliced(trio, *ranges), tmp_path / f"sliced{index}")
        assert result.keys() == expected.keys()
        assert all(torch.equal(result[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", ["vit", "llama-lm"])
def test_layers_in_another_number_and_order(family: str, tmp_path: Path) -> None:
    trio = write_trio(tmp_path, BY_NAME[family], FP32)
    expected = merged(whole(trio), tmp_path / "whole")
    result = merged(sliced(trio, (1, 2), (0, 2)), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    _, report = loaded(tmp_path / "out")
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, tensor in result.items():
        head, layer, tail = _layer(name)
        source = name if layer is None else f"{head}.{(1, 0, 1)[layer]}.{tail}"
        assert torch.equal(tensor, expected[source]), name


def _layer(name: str) -> tuple[str, int | None, str]:
    parts = name.split(".")
    index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if index is None:
        return name, None, ""
    return ".".join(parts[:index]), int(parts[index]), ".".join(parts[index + 1 :])


def test_slices_are_checked_as_models_are(tmp_path: Path) -> None:
    trio = write_trio(tmp_path, BY_NAME["bert"], FP32)
    raw = sliced(trio, (0, 1), (1, 2))
    path = tmp_path / "r.yml"
    path.write_text(dump_yaml(raw))
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0, result.output
    ungrouped = json.loads(json.dumps(raw))
    del ungrouped["slices"][1]["sources"][2]["parameters"]["group"]
    with raises(RecipeError, "needs parameters.group", where="slices[1]"):
        Recipe.from_mapping(ungrouped, "r.yml")
    alone = json.loads(json.dumps(raw))
    del alone["slices"][0]["sources"][1:]
    with raises(RecipeError, "at least one subgroup model", where="slices[0]"):
        Recipe.from_mapping(alone, "r.yml")
    with raises(RecipeError, "slices", fix="folder"):
        list(Composer().compose(Recipe.from_mapping(raw, "r.yml")))


def test_modules(tmp_path: Path) -> None:
    """Encoder and decoder apart, as mergekit's own definition of T5 names them."""
    trio = write_trio(tmp_path, BY_NAME["t5-lm"], FP32)
    plan = whole(trio)
    expected = merged(plan, tmp_path / "whole")
    reference = Recipe.from_mapping(plan, "r.yml").configuration().referenced_models()[0]
    known = own_architecture(reference, tensor_infos(trio.base), Layout(trio.base))
    modules = {name: {"models": plan["models"]} for name in known.info.modules}
    assert len(modules) == 2
    raw = {key: value for key, value in plan.items() if key != "models"} | {"modules": modules}
    result = merged(raw, tmp_path / "out")
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name], expected[name]) for name in expected)
