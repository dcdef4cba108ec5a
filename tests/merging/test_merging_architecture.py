"""mergekit's own definition where it names every tensor, else the checkpoint's tensor names."""

import json
import shutil

import pytest
import torch
from checkpoints import ARCHITECTURES, rewrite
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.common import ModelReference

from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.architecture import complete_architecture


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_kept_where_mergekit_knows_them(tiny, architecture):
    with complete_architecture(
        ModelReference.model_validate(str(tiny(architecture).base)),
        tensor_infos(tiny(architecture).base),
    ) as layers:
        assert layers == (architecture != "vit")


def test_a_flat_architecture_names_every_tensor_and_is_taken_back(tiny):
    base = tiny("vit").base
    before = dict(NAME_TO_ARCH)
    with complete_architecture(ModelReference.model_validate(str(base)), tensor_infos(base)):
        (flat,) = NAME_TO_ARCH["ViTForImageClassification"]
        (module,) = flat.modules.values()
        names = [weight.name for weight in module.architecture.definition.pre_weights]
        assert names == list(tensor_infos(base))
    assert before == NAME_TO_ARCH
    with (
        pytest.raises(KeyError),
        complete_architecture(ModelReference.model_validate(str(base)), tensor_infos(base)),
    ):
        raise KeyError
    assert before == NAME_TO_ARCH


def test_a_tensor_more_than_mergekit_knows_makes_it_flat(tiny, tmp_path):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")

    def add(tensors):
        tensors["adversary.weight"] = torch.zeros(2)

    rewrite(base, add)
    with complete_architecture(
        ModelReference.model_validate(str(base)), tensor_infos(base)
    ) as layers:
        assert not layers


def test_architectures_that_mergekit_has_never_heard_of(tiny, tmp_path):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": ["MyModel"]}))
    with complete_architecture(
        ModelReference.model_validate(str(base)), tensor_infos(base)
    ) as layers:
        assert not layers
        assert "MyModel" in NAME_TO_ARCH
    assert "MyModel" not in NAME_TO_ARCH


@pytest.mark.parametrize("names", [None, [], ["A", "B"]])
def test_a_config_without_one_architecture(tiny, tmp_path, names):
    base = shutil.copytree(tiny("bert").base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": names}))
    with (
        pytest.raises(CheckpointError, match=r"config\.json must name one architecture"),
        complete_architecture(ModelReference.model_validate(str(base)), tensor_infos(base)),
    ):
        pass
