"""mergekit's own definition where it names every tensor, else the checkpoint's tensor names."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from checkpoints import ARCHITECTURES, rewrite
from mergekit.architecture.base import ConfiguredModelArchitecture
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.common import ModelReference

from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.checkpoints.layout import Layout
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.architecture import MADE_BY_CODE, own_architecture
from mergekit_fair.merging.definitions import definition_for


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


@pytest.mark.parametrize("name", sorted(NAME_TO_ARCH))
def test_definitions_are_read_as_mergekit_reads_them(name):
    """All of mergekit's files: names, order, layers, dtypes, which tensors are optional."""
    for info in NAME_TO_ARCH[name]:
        config = every_setting(model_type=info.expected_model_type, architectures=[name])
        known = definition_for(config)
        expected = info.all_weights(config)
        assert [(each.name, each.dtype) for each in known.weights] == [
            (each.name, each.force_dtype) for each in expected
        ]
        assert known.required == {each.name for each in expected if not each.optional}
        assert known.is_planned == (not any(each.optional and each.aliases for each in expected))
        assert {each.place for each in known.weights} <= {0.0, 0.5, 1.0}


def every_setting(**more):
    """Three layers by whatever name; what parts there are have the same."""
    counts = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth")
    counts += ("encoder_layers", "decoder_layers", "num_decoder_layers")
    names = ("text_config", "vision_config", "audio_config", "encoder", "decoder")
    parts = {part: SimpleNamespace(**dict.fromkeys(counts, 3)) for part in names}
    return SimpleNamespace(**dict.fromkeys(counts, 3), **parts, **more)


def test_what_code_defines_is_left_to_mergekit():
    """Definitions that mergekit makes by code have a file that is not the whole."""
    from mergekit.architecture import moe_defs

    made = {
        kind.ARCHITECTURE_NAME
        for kind in vars(moe_defs).values()
        if hasattr(kind, "ARCHITECTURE_NAME")
    }
    assert made == set(MADE_BY_CODE)


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
