"""mergekit's own definition where it names every tensor, else the checkpoint's tensor names."""

import json
import shutil

import pytest
import torch
from checkpoints import ARCHITECTURES, rewrite
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.common import ModelReference

from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.checkpoints.layout import Layout
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.architecture import own_architecture


def architecture_of(base):
    names = tensor_infos(base)
    return own_architecture(ModelReference.parse(str(base)), names, Layout(base))


def weights_of(base):
    config = ModelReference.parse(str(base)).config()
    return ConfiguredModelArchitecture(info=architecture_of(base).info, config=config).all_weights()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mergekits_own_is_used_where_it_names_every_tensor(tiny, architecture):
    assert architecture_of(tiny(architecture).base).is_mergekits == (architecture != "vit")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_has_a_place(tiny, architecture):
    base = tiny(architecture).base
    planned = {weight.name for weight in weights_of(base) if not weight.optional}
    assert planned <= set(tensor_infos(base)) <= {weight.name for weight in weights_of(base)}


def test_layers_are_read_off_the_names(tiny):
    (module,) = architecture_of(tiny("vit").base).info.modules.values()
    config = ModelReference.parse(str(tiny("vit").base)).config()
    assert module.architecture.num_layers(config) == 2
    second = {weight.name for weight in module.architecture.layer_weights(1, config)}
    names = tensor_infos(tiny("vit").base)
    assert second == {name for name in names if name.startswith("vit.encoder.layer.1.")}


def test_a_layer_may_lack_what_others_have(tiny, tmp_path):
    base = shutil.copytree(tiny("vit").base, tmp_path / "base")
    rewrite(base, lambda tensors: tensors.pop("vit.encoder.layer.0.layernorm_after.bias"))
    optional = {weight.name for weight in weights_of(base) if weight.optional}
    assert optional == {f"vit.encoder.layer.{i}.layernorm_after.bias" for i in range(2)}


def test_a_tensor_more_than_mergekit_knows(tiny, tmp_path):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    rewrite(base, lambda tensors: tensors.update({"adversary.weight": torch.zeros(2)}))
    assert not architecture_of(base).is_mergekits


def test_architectures_that_mergekit_has_never_heard_of(tiny, tmp_path):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": ["MyModel"]}))
    assert not architecture_of(base).is_mergekits


def test_vocabularies_are_known_where_transformers_knows_the_embeddings(tiny):
    (module,) = architecture_of(tiny("vit").base).info.modules.values()
    assert all(w.vocabulary_axis is None for w in module.architecture.definition.pre_weights)
    names = tensor_infos(tiny("llama").base)
    layout = Layout(tiny("llama").base)
    assert set(layout.vocabulary_axes(names)) <= {"model.embed_tokens.weight", "lm_head.weight"}
    assert layout.vocabulary_axes(names)["model.embed_tokens.weight"] == 0


@pytest.mark.parametrize("names", [None, [], ["A", "B"]])
def test_a_config_without_one_architecture(tiny, tmp_path, names):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": names}))
    with pytest.raises(CheckpointError, match=r"config\.json must name one architecture"):
        architecture_of(base)
