"""Private names of mergekit: each test says what breaks when the name moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.architecture import get_architecture_info
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.options import MergeOptions
from safetensors.torch import save_file

from mergekit_fair.compat import mergekit as private
from mergekit_fair.merging.recipe import Recipe

OPTIONS: Any = MergeOptions(quiet=True)


@pytest.fixture
def config(tiny: Any) -> Any:
    return Recipe.from_mapping(tiny("llama").addition(lambda_=[0, 1]), "r.yml").for_mergekit()


def test_the_outputs_configuration(config: Any) -> None:
    """`_model_out_config`: config.json would not carry the merge's dtype."""
    made = private.output_config(config, get_architecture_info(config, OPTIONS), OPTIONS)
    assert str(made.dtype).endswith("float32")


def test_chat_templates() -> None:
    """`_data.chat_templates`: a wrong name would be found out after the merge."""
    names = private.chat_template_names()
    assert {"chatml", "llama3"} <= set(names)
    assert all("{" in private.chat_template_text(name) for name in names)


def test_definitions_are_looked_up() -> None:
    """`NAME_TO_ARCH`: mergekit's own look-up raises for most unknown architectures."""
    assert private.is_defined("LlamaForCausalLM")
    assert not private.is_defined("Nothing")


def test_a_merge_asks_for_its_architecture(config: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """`merge.get_architecture_info`: 32 of a ViT's 40 tensors would be lost, unchecked."""
    from mergekit import merge

    monkeypatch.setattr(merge, "get_architecture_info", merge.get_architecture_info)

    def refuse(asked: Any, options: Any) -> Any:
        assert (asked, options) == (config, OPTIONS)
        raise KeyError("refused")

    private.choose_architectures(refuse)
    with pytest.raises(KeyError, match="refused"):
        merge.run_merge(config, str(tmp_path / "out"), OPTIONS)
    private.choose_architectures(lambda *_: None)
    merge.run_merge(config, str(tmp_path / "out"), OPTIONS)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_planned_task_says_what_is_read_of_it(config: Any) -> None:
    """`plan_to_disk`, `tensor_task`: gradients and filters would not be resolved any more."""
    models = {str(model): {} for model in config.referenced_models()}
    info = get_architecture_info(config, OPTIONS)
    with private.known_tensors({model: {} for model in config.referenced_models()}):
        tasks = private.disk_plan(config, info, OPTIONS).saved
    assert len(tasks) > 10
    merge: Any = tasks[0].tensor_task
    assert "lambda" in dict(merge.parameters.items())
    assert {str(model) for model in merge.model_order} == models.keys()
    assert {str(m) for m in dict(merge.input_parameters.items())} == models.keys()
    assert str(merge.base_model) == next(iter(models))
    assert merge.gather_tensors.dtype == "float32"
    assert all(info.name for info in merge.gather_tensors.weight_info.values())
    assert isinstance(tasks[0].tensor_name, str)


def test_loaders_are_forgotten(tiny: Any) -> None:
    """`LoaderCache().loaders`: a file that changed would be merged as it was before."""
    LoaderCache().setup(OPTIONS)
    model = ModelReference.parse(str(tiny("bert").base))
    assert private.loaded_folder(model) == tiny("bert").base
    assert "classifier.weight" in private.loaded_tensors(model)
    assert model in LoaderCache().loaders
    private.forget_models()
    assert not LoaderCache().loaders
    with private.known_tensors({model: ["x"]}):
        assert "x" in LoaderCache().get(model).index.tensor_paths
    assert not LoaderCache().loaders


def test_stored_vectors_are_read_as_models(tiny: Any, tmp_path: Path) -> None:
    """`LoaderCache().loaders`, `get_tensor`: mergekit would miss what a vector does not hold."""
    LoaderCache().setup(OPTIONS)
    base, vector = (ModelReference.parse(str(path)) for path in (tiny("bert").base, tmp_path))
    save_file({"classifier.bias": torch.ones(2)}, tmp_path / "v.safetensors")
    private.serve_vectors({vector: {"classifier.bias": tmp_path / "v.safetensors"}}, base)
    for name in ("classifier.bias", "classifier.weight"):
        assert private.vectors_in_graph([base, vector], name) == {vector: name.endswith("bias")}
        for dtype in (None, "bfloat16"):
            read = LoadTensor(model=vector, tensor=name, dtype=dtype).execute()
            stored = LoadTensor(model=base, tensor=name, dtype=dtype).execute()
            assert (read.shape, read.dtype) == (stored.shape, stored.dtype)
            assert bool(read.any()) is name.endswith("bias")
    assert private.loaded_folder(vector) == tmp_path
    LoaderCache().flush_all()
    private.serve_vectors({}, base)
    assert private.vectors_in_graph([base, vector], "classifier.bias") == {}
    private.forget_models()


def test_groups_are_executed_by_a_method_that_can_be_extended() -> None:
    """`GroupMergeMethod._execute`: `normalize: norm` and cclip in mergekit's graph need it."""
    import inspect

    from mergekit.merge_methods import GroupMergeMethod

    parameters = inspect.signature(GroupMergeMethod._execute).parameters
    assert list(parameters)[:4] == ["self", "groups", "parameters", "options"]
