"""config.json of a merged model says what its file holds, and loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from beside import Scene, each_route
from checkpoints import fine_tune, read, rewrite
from mergekit.options import MergeOptions
from refusals import raises

from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

HALF, SINGLE, DOUBLE = torch.float16, torch.float32, torch.float64


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def cast(folder: Path, dtype: torch.dtype) -> None:
    rewrite(folder, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))


@pytest.fixture
def pair(tiny: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A base and a model fine-tuned from it, which a test may change."""
    base = fine_tune(tiny("bert").base, tmp_path / "base", seed=8, size=0)
    return base, fine_tune(base, tmp_path / "tuned", seed=9)


OWN, STOCK = "subgroup_task_addition", "task_arithmetic"


def merged(pair: tuple[Path, Path], method: str, **settings: Any) -> Path:
    base, tuned = pair
    parameters = {"group": "all"} if method == OWN else {"weight": 1.0}
    raw = {
        "merge_method": method,
        "base_model": str(base),
        "models": [{"model": str(tuned), "parameters": parameters}],
        "parameters": {"lambda": 0.5},
        **settings,
    }
    out = base.parent / "out"
    merge_to_folder(Recipe.from_mapping(raw, "r.yml"), out, MergeOptions(quiet=True))
    return out


def loaded_dtype(folder: Path, kind: str = "AutoModelForSequenceClassification") -> torch.dtype:
    import transformers

    dtype = getattr(transformers, kind).from_pretrained(folder).dtype
    assert isinstance(dtype, torch.dtype)
    return dtype


def file_dtypes(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in read(folder).values() if tensor.is_floating_point()}


@pytest.mark.parametrize("method", [OWN, STOCK])
@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"dtype": "torch.float16"}, HALF),
        ({"dtype": "torch.bfloat16"}, torch.bfloat16),
        ({"dtype": "float64"}, DOUBLE),
        ({"dtype": "float32", "out_dtype": "torch.float16"}, HALF),
        ({}, SINGLE),
    ],
)
def test_the_dtype_is_a_plain_name_and_that_of_the_file(
    pair: tuple[Path, Path], method: str, settings: dict[str, str], dtype: torch.dtype
) -> None:
    out = merged(pair, method, **settings)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert file_dtypes(out) == {dtype}
    assert loaded_dtype(out) == dtype


@pytest.mark.parametrize("method", [OWN, STOCK])
@pytest.mark.parametrize("dtypes", [(HALF, SINGLE), (SINGLE, HALF), (HALF, torch.bfloat16)])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_models_of_several_dtypes(
    pair: tuple[Path, Path], method: str, dtypes: tuple[torch.dtype, ...], key: str
) -> None:
    """Without a dtype in the recipe, the base's config.json says what the base holds."""
    for folder, dtype in zip(pair, dtypes, strict=True):
        cast(folder, dtype)
        edit(folder, lambda config: config.pop("dtype"))
        edit(folder, lambda config, dtype=dtype: config.update({key: str(dtype)[6:]}))
    out = merged(pair, method)
    assert file_dtypes(out) == {loaded_dtype(out)}


@pytest.mark.parametrize("method", [OWN, STOCK])
@pytest.mark.parametrize("said", [None, "float64", "bfloat16"])
def test_a_config_that_says_nothing_or_something_else(
    pair: tuple[Path, Path], method: str, said: str | None
) -> None:
    for folder in pair:
        cast(folder, HALF)
        edit(folder, lambda config: config.update(dtype=said))
    out = merged(pair, method)
    assert loaded_dtype(out) == HALF
    assert "torch_dtype" not in json.loads((out / "config.json").read_text())


def test_where_tensors_differ_most_elements_decide(pair: tuple[Path, Path]) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "layer" in name or name.startswith("classifier"):
                tensors[name] = tensor.half()
        tensors["bert.embeddings.position_ids"] = torch.arange(100_000)

    for folder in pair:
        rewrite(folder, narrow)
    out = merged(pair, OWN)
    sizes = dict.fromkeys((HALF, SINGLE), 0)
    for tensor in read(out).values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    assert sizes[HALF] > sizes[SINGLE] > 0
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"


@pytest.fixture
def pictured(tmp_path: Path) -> tuple[Path, Path]:
    """As `pair`, of a model whose config.json holds those of its two towers."""
    from transformers import CLIPConfig, CLIPModel

    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "projection_dim": 16}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    text, picture = {"vocab_size": 20, "eos_token_id": 2}, {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=sizes | text, vision_config=sizes | picture, projection_dim=16)
    CLIPModel(config).half().save_pretrained(tmp_path / "base")
    return tmp_path / "base", fine_tune(tmp_path / "base", tmp_path / "tuned", seed=9)


TOWERS = ("text_config", "vision_config")


@pytest.mark.parametrize(
    "said", [{"dtype": "float32"}, {"dtype": None}, {"torch_dtype": "float64"}, {}]
)
@pytest.mark.parametrize("method", [OWN, STOCK])
def test_configs_in_a_config(
    pictured: tuple[Path, Path], method: str, said: dict[str, Any]
) -> None:
    for folder in pictured:
        for tower in TOWERS:
            edit(folder, lambda config, tower=tower: config[tower].pop("dtype", None))
            edit(folder, lambda config, tower=tower: config[tower].update(said))
    out = merged(pictured, method)
    config = json.loads((out / "config.json").read_text())
    names = [part.get("dtype", "float16") for part in (config, *(config[key] for key in TOWERS))]
    assert set(names) == {"float16"}
    assert loaded_dtype(out, "CLIPModel") == HALF


@pytest.mark.parametrize("method", [OWN, STOCK])
def test_only_the_parts_say_a_dtype(pictured: tuple[Path, Path], method: str) -> None:
    for folder in pictured:
        edit(folder, lambda config: config.pop("dtype"))
        edit(folder, lambda config: config["text_config"].update(dtype="bfloat16"))
    out = merged(pictured, method)
    assert loaded_dtype(out, "CLIPModel") == HALF


NAMED = {"0": "no", "1": "yes"}


def name_classes(scene: Scene, *names: dict[str, str] | None) -> None:
    """Of the base and of both others; None for none."""
    for folder, its in zip((scene.base, scene.a, scene.b), names, strict=True):
        label2id = {name: int(index) for index, name in (its or {}).items()}
        edit(folder, lambda config, its=its: config.update(id2label=its))
        edit(folder, lambda config, label2id=label2id: config.update(label2id=label2id))


UNNAMED = {"0": "LABEL_0", "1": "LABEL_1"}


@each_route
@pytest.mark.parametrize("unnamed", [UNNAMED, None])
def test_names_of_classes_that_only_fine_tunes_have(
    scene: Scene, route: str, unnamed: dict[str, str] | None
) -> None:
    from transformers import AutoConfig

    name_classes(scene, unnamed, NAMED, unnamed)
    config = AutoConfig.from_pretrained(scene.merge(route))
    assert (config.id2label, config.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    (note,) = scene.notes
    assert str(scene.a) in note


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (NAMED, {"0": "yes", "1": "no"}),
        (NAMED, {"0": "No", "1": "Yes"}),
        ({"0": "no", "1": "yes", "2": "perhaps"}, UNNAMED),
        ({"1": "no", "2": "yes"}, UNNAMED),
        ({"0": "yes"}, UNNAMED),
    ],
)
def test_names_of_classes_that_do_not_fit(
    scene: Scene, names: dict[str, str], other: dict[str, str]
) -> None:
    name_classes(scene, UNNAMED, names, other)
    config = json.loads((scene.merge("stock") / "config.json").read_text())
    assert "yes" not in str(config.get("id2label"))
    (note,) = scene.notes
    assert str(scene.a) in note


def test_fine_tunes_that_name_classes_otherwise_than_each_other_are_refused(scene: Scene) -> None:
    """By a method that adds them up; class 0 of one would be class 1 of the other."""
    name_classes(scene, UNNAMED, NAMED, {"0": "yes", "1": "no"})
    with raises(CheckpointError, str(scene.a), where=scene.b, got={"0": "yes", "1": "no"}):
        scene.merge()


def test_the_head_of_the_base_has_the_classes_of_the_base(scene: Scene) -> None:
    name_classes(scene, UNNAMED, NAMED, NAMED)
    config = json.loads((scene.merge(parameters={"head": "base"}) / "config.json").read_text())
    assert "yes" not in str(config.get("id2label"))
    assert len(scene.notes) == 1


ONE_OF_MANY = "single_label_classification"  # what transformers assumes


@pytest.mark.parametrize(
    ("own", "theirs", "written"),
    [
        (None, (ONE_OF_MANY, None), None),
        (None, (ONE_OF_MANY, "regression"), None),
        (ONE_OF_MANY, ("regression",) * 2, ONE_OF_MANY),
        (None, ("multi_label_classification", None), "multi_label_classification"),
        (None, ("regression", "multi_label_classification"), None),
        ("regression", ("multi_label_classification",) * 2, "regression"),
    ],
)
@each_route
def test_the_problem_that_only_fine_tunes_name(
    scene: Scene, route: str, own: Any, theirs: Any, written: Any
) -> None:
    """It decides between softmax and sigmoid."""
    for folder, name in zip((scene.base, scene.a, scene.b), (own, *theirs), strict=True):
        edit(folder, lambda config, name=name: config.update(problem_type=name))
    config = json.loads((scene.merge(route) / "config.json").read_text())
    assert config.get("problem_type") == written
    assert len(scene.notes) == (
        own is None and not {*theirs} <= {None, "single_label_classification"}
    )


@each_route
def test_names_of_the_base_stay(scene: Scene, route: str) -> None:
    name_classes(scene, NAMED, UNNAMED, None)
    config = json.loads((scene.merge(route) / "config.json").read_text())
    assert config["id2label"] == NAMED
    assert scene.notes == []
