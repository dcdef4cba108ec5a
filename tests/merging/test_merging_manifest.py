"""A merged model carries what is needed to check it and to repeat it; norms are kept."""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import pytest
from beside import PIPELINE, each_route, write
from checkpoints import read, rewrite
from refusals import raises
from rounding import same_bits

from mergekit_fair.checkpoints.folder import tensor_infos
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.dry_run import check_merge
from mergekit_fair.merging.manifest import verify
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent
from mergekit_fair.schema import dump_yaml


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_and_every_input_is_described(tiny, tmp_path, options):
    family = tiny("bert")
    made = Recipe.from_mapping(family.addition(lambda_=0.3), "r.yml")
    sharded = options.model_copy(update={"out_shard_size": 20_000})
    merge_to_folder(made, tmp_path / "out", sharded, MergeSettings(hash_inputs=True))
    manifest = verify(tmp_path / "out")
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert manifest["files"].keys() == files.keys() - {"merge_manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": files[name].stat().st_size, "sha256": sha256(files[name])}
    assert manifest["inputs"].keys() == {str(family.base), *map(str, family.groups.values())}
    for model, entry in manifest["inputs"].items():
        (name,) = entry["files"]
        state = (family.base.parent / model / name).stat()
        found = entry["files"][name]
        assert found["bytes"] == state.st_size
        assert found["mtime_ns"] == state.st_mtime_ns
        assert found["sha256"] == sha256(family.base.parent / model / name)
    assert manifest["versions"]["mergekit"] == "0.1.5"
    assert manifest["method"] == "subgroup_task_addition"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_model_that_is_not_what_was_merged(tiny, tmp_path, options, damage):
    made = Recipe.from_mapping(tiny("bert").addition(lambda_=0.3), "r.yml")
    merge_to_folder(made, tmp_path / "out", options)
    file = tmp_path / "out" / "model.safetensors"
    if damage == "changed":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    with pytest.raises(CheckpointError) as caught:
        verify(tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path / 'out'}: is not what was merged: 1 files are missing or changed; got "
        "['model.safetensors']. Merge again from its mergekit_config.yml."
    )
    (tmp_path / "out" / "merge_manifest.json").write_text("[]")
    manifest = tmp_path / "out" / "merge_manifest.json"
    with raises(CheckpointError, where=manifest, fix="merge again"):
        verify(tmp_path / "out")


@each_route
def test_files_in_folders_are_described(scene, route):
    write(scene.base, PIPELINE)
    out = scene.merge(route)
    assert verify(out)["files"].keys() > PIPELINE.keys()
    (out / "1_Pooling" / "config.json").write_text("{}")
    (out / "2_Dense" / "config.json").unlink()
    changed = ["1_Pooling/config.json", "2_Dense/config.json"]
    with raises(CheckpointError, where=out, got=changed):
        verify(out)


def test_the_recipe_beside_the_model_gives_the_same_model(tiny, tmp_path, options):
    made = Recipe.from_mapping(tiny("bert").addition(lambda_=0.3), "r.yml")
    merge_to_folder(made, tmp_path / "out", options)
    again = Recipe.load(tmp_path / "out" / "mergekit_config.yml")
    merge_to_folder(again, tmp_path / "again", options)
    first, second = (verify(tmp_path / name)["files"] for name in ("out", "again"))
    assert first["model.safetensors"] == second["model.safetensors"]


@pytest.fixture
def clipped(tiny, tmp_path):
    """A recipe file that needs norms, over a family that a test may change."""
    family = tiny("bert")
    models = []
    for name, path in {"base": family.base, **family.groups}.items():
        shutil.copytree(path, tmp_path / name)
        if name != "base":
            models.append({"model": str(tmp_path / name), "parameters": {"group": name}})
    raw = {"merge_method": "cclip", "base_model": str(tmp_path / "base"), "models": models}
    path = tmp_path / "recipe.yml"
    path.write_text(dump_yaml(raw | {"parameters": {"rho": 1.0}, "dtype": "float32"}))
    return path


def norm(base, model):
    start, end = read(base), read(Path(model))
    return sum(((end[k].double() - start[k].double()) ** 2).sum().item() for k in start) ** 0.5


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(folder))
    return folder / "products"


@pytest.fixture
def passes(monkeypatch):
    """The models of every pass over the weights."""
    from mergekit_fair.merging.methods import measured_products

    passes, measure = [], measured_products.task_vector_products

    def counted(base, models, pairs, names, advance):
        passes.append([model.name for model in models])
        return measure(base, models, pairs, names, advance)

    monkeypatch.setattr(measured_products, "task_vector_products", counted)
    return passes


def checked(recipe, options):
    return check_merge(recipe, options, MergeSettings(), Silent())["norms"]


def test_norms_are_measured_once_and_kept_by_content(clipped, cache, passes, options):
    folder, made = clipped.parent, Recipe.load(clipped)
    first = checked(made, options)
    for model, value in first.items():
        assert value == pytest.approx(norm(folder / "base", model), rel=1e-12)
    kept = [json.loads(file.read_text())["product"] for file in cache.glob("*.json")]
    assert sorted(map(math.sqrt, kept)) == sorted(first.values())
    assert not list(folder.glob(".*"))  # nothing beside the recipe
    passes.clear()
    merge_to_folder(made, folder / "out", options)
    assert passes == []
    assert verify(folder / "out")["norms"] == first
    # A model that changed is measured again, and only that one.
    rewrite(folder / "Male", lambda tensors: tensors["classifier.bias"].add_(1))
    changed = checked(made, options)
    assert passes == [[str(folder / "Male")]]
    assert changed[str(folder / "Male")] == pytest.approx(norm(folder / "base", folder / "Male"))
    assert changed[str(folder / "Female")] == first[str(folder / "Female")]


def test_a_file_of_the_same_size_and_time_elsewhere_is_another(clipped, options):
    """As in images of containers, whose files all have one time."""
    folder = clipped.parent
    first = checked(Recipe.load(clipped), options)
    shutil.copytree(folder / "Male", folder / "twin")
    rewrite(folder / "twin", lambda tensors: tensors["classifier.bias"].add_(1))
    state = (folder / "Male" / "model.safetensors").stat()
    os.utime(folder / "twin" / "model.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns))
    clipped.write_text(clipped.read_text().replace(str(folder / "Male"), str(folder / "twin")))
    second = checked(Recipe.load(clipped), options)
    assert second[str(folder / "twin")] != first[str(folder / "Male")]
    assert second[str(folder / "twin")] == pytest.approx(norm(folder / "base", folder / "twin"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"product": "b"}', '{"product": NaN}', "\0"])
def test_a_broken_cache_is_measured_anew(clipped, cache, passes, options, content):
    first = checked(Recipe.load(clipped), options)
    for file in cache.glob("*.json"):
        file.write_text(content)
    assert checked(Recipe.load(clipped), options) == first
    assert [len(models) for models in passes] == [3, 3]
    assert checked(Recipe.load(clipped), options) == first
    assert len(passes) == 2


def test_a_cache_that_cannot_be_written_is_no_error(clipped, cache, passes, options):
    cache.parent.write_text("a file in the place of the folder")
    assert checked(Recipe.load(clipped), options)
    inline = Recipe.from_mapping(Recipe.load(clipped).raw, "sweep.yml: recipe")
    assert checked(inline, options)
    assert len(passes) == 2


def test_products_are_the_same_bits_with_any_number_of_threads(clipped):
    import torch

    from mergekit_fair.checkpoints.inner_products import task_vector_products
    from mergekit_fair.checkpoints.reader import open_folder

    readers = [open_folder(clipped.parent / name) for name in ("base", "Male", "Other")]
    names = list(tensor_infos(clipped.parent / "base"))
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        pairs = [(0, 0), (0, 1), (1, 1)]
        found.append(task_vector_products(readers[0], readers[1:], pairs, reversed(names)))
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
    state = read(clipped.parent / "base")
    assert same_bits(state["classifier.bias"], readers[0].read("classifier.bias", 0, 2, _buffer()))


def _buffer():
    from mergekit_fair.checkpoints.reader import Buffer

    return Buffer(64)
