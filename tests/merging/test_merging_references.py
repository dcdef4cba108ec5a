"""However a model is spelled and wherever it lies, it is one model, on every route."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import read
from mergekit.options import MergeOptions
from refusals import raises, refusal

from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.references import is_same_model, references
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.schema import dump_yaml

OPTIONS: Any = MergeOptions(quiet=True)
COMMIT = "0123abcd" * 5
METHODS = ("subgroup_task_addition", "task_arithmetic")


def recipe(method: str, base: str, *models: str) -> Recipe:
    own = method == METHODS[0]
    items = [
        {"model": model, "parameters": {"group": model} if own else {"weight": 0.5}}
        for model in models
    ]
    raw = {"merge_method": method, "base_model": base, "models": items, "dtype": "float32"}
    return Recipe.from_mapping(raw, "r.yml")


def merged(made: Recipe, out: str) -> dict[str, torch.Tensor]:
    merge_to_folder(made, out, OPTIONS)
    return read(Path(out))


@pytest.fixture
def here(tiny: Any, tmp_path: Path, monkeypatch: Any) -> dict[str, Path]:
    """`m/base`, `m/a` and `m/b` below the working folder."""
    family = tiny("llama")
    sources = [family.base, *list(family.groups.values())[:2]]
    names = ("base", "a", "b")
    folders = {
        name: shutil.copytree(source, tmp_path / "m" / name)
        for name, source in zip(names, sources, strict=True)
    }
    monkeypatch.chdir(tmp_path)
    return folders


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("method", METHODS)
def test_spellings(here: Any, method: str, monkeypatch: Any) -> None:
    expected = merged(recipe(method, *(str(path) for path in here.values())), "plain")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    for index, spelling in enumerate(
        (
            ("m/base", "m/a", "m/b"),
            ("./m/base/", "m/../m/a", "m//b"),
            ("~/m/base", "~/m/a", "~/m/b"),
        )
    ):
        assert same(merged(recipe(method, *spelling), f"out{index}"), expected), spelling


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", ["+", "@"])
def test_signs_that_mergekit_splits_paths_at(here: Any, method: str, sign: str) -> None:
    expected = merged(recipe(method, *(str(path) for path in here.values())), "plain")
    odd = [str(path.rename(path.with_name(f"{path.name}{sign}2026"))) for path in here.values()]
    assert same(merged(recipe(method, *odd), "out"), expected)


def hub(folder: Path, cache: Path, name: str) -> None:
    """Put a model into a cache of the Hub, as a download leaves it."""
    place = cache / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    (place / "blobs").mkdir()
    for file in folder.iterdir():
        shutil.copy(file, place / "blobs" / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_models_in_the_cache_of_the_hub(
    here: Any, tmp_path: Path, monkeypatch: Any, method: str, revision: str
) -> None:
    """Without a look at the network; the recipe and the card keep the names of the Hub."""
    import huggingface_hub.constants as constants

    expected = merged(recipe(method, *(str(path) for path in here.values())), "plain")
    cache = tmp_path / "hub"
    for name, folder in here.items():
        hub(folder, cache, f"org/{name}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    named = recipe(method, *(f"org/{name}{revision}" for name in here))
    assert same(merged(named, "out"), expected)
    assert "org/base" in (tmp_path / "out" / "mergekit_config.yml").read_text()
    snapshot = cache / "models--org--a" / "snapshots" / COMMIT
    assert same(merged(recipe(method, "m/base", str(snapshot), "m/b"), "direct"), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("here")
def test_models_that_are_nowhere(method: str) -> None:
    for model in ("org/nothing", "org/nothing@v2", "./nothing", "~/nothing", "a/b/c"):
        with pytest.raises(CheckpointError):
            merged(recipe(method, "m/base", model, "m/b"), "out")
    assert not Path("out").exists()


def test_the_base_is_the_base_however_it_is_spelled(here: Any, tmp_path: Path) -> None:
    raw = recipe(METHODS[0], "m/base", "m/a").raw
    for spelling in ("m/base", "./m/base/", str(here["base"])):
        listed = {**raw, "models": [{"model": spelling}, *raw["models"]]}
        made = Recipe.from_mapping(listed, "r.yml")
        assert [str(m) for m in made.configuration().referenced_models()] == ["./m/base", "./m/a"]
        grouped = {"model": spelling, "parameters": {"group": "z"}}
        with raises(RecipeError, "group", where=spelling):
            Recipe.from_mapping({**raw, "models": [grouped, *raw["models"]]}, "r.yml")
    assert is_same_model("m/base", str(tmp_path / "m" / "base"))
    assert not is_same_model("m/base", "m/a")


def test_mergekit_takes_spellings_for_models(here: Any) -> None:
    """Its methods give its bits, and a warning: the base counts once more where it is averaged."""
    raw = {"merge_method": "linear", "base_model": "./m/base", "dtype": "float32"}
    models = ("m/base", "./m/base", str(here["base"]), "m/a")
    raw["models"] = [{"model": model, "parameters": {"weight": 1}} for model in models]
    made = Recipe.from_mapping(raw, "r.yml")
    texts = [str(model) for model in made.configuration().referenced_models()]
    assert len(set(texts)) == len(texts) == 4
    assert all(Path(text).samefile(here["base"]) for text in texts[:3])
    result = merged(made, "out")
    base, other = read(here["base"]), read(here["a"])
    for name, tensor in result.items():
        expected = (3 * base[name].double() + other[name].double()) / 4
        torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-6)


def test_tokenizers_that_models_are_named_for(here: Any) -> None:
    """`base` and `union` are words, also where a folder has that name."""
    shutil.copytree(here["base"], "base")
    raw = recipe(METHODS[1], "base", "m/a").raw
    tokens = {"<x>": {"source": "m/a"}, "<y>": {"source": {"kind": "model_token", "model": "m/b"}}}
    changed = references(raw | {"tokenizer": {"source": "base", "tokens": tokens}}, "r.yml")
    assert changed["base_model"] == "./base"
    assert changed["tokenizer"]["source"] == "base"
    assert changed["tokenizer"]["tokens"]["<x>"] == {"source": "./m/a"}
    assert changed["tokenizer"]["tokens"]["<y>"]["source"]["model"] == "./m/b"
    assert references(raw | {"tokenizer_source": "m/a"}, "r.yml")["tokenizer_source"] == "./m/a"
    assert references(raw | {"tokenizer_source": "union"}, "r.yml")["tokenizer_source"] == "union"


CODE = """
from transformers import LlamaConfig, LlamaForSequenceClassification
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddForSequenceClassification(LlamaForSequenceClassification):
    config_class = OddConfig
"""


def test_code_of_a_models_own_runs_where_it_is_trusted(here: Any, tmp_path: Path) -> None:
    for folder in here.values():
        (folder / "odd.py").write_text(CODE)
        config = json.loads((folder / "config.json").read_text())
        config |= {
            "model_type": "odd",
            "architectures": ["OddForSequenceClassification"],
            "auto_map": {
                "AutoConfig": "odd.OddConfig",
                "AutoModelForSequenceClassification": "odd.OddForSequenceClassification",
            },
        }
        (folder / "config.json").write_text(json.dumps(config))
    from click.testing import CliRunner

    from mergekit_fair.cli import main

    for method in METHODS:
        path = tmp_path / f"{method}.yml"
        path.write_text(dump_yaml(recipe(method, "m/base", "m/a", "m/b").raw))
        out = str(tmp_path / f"out-{method}")
        commands = [["merge", str(path), out], ["check", str(path)]]
        commands += [["vectors", str(path)]] if method == METHODS[0] else []
        for command in commands:
            refusal(command, CheckpointError, fix="--trust-remote-code")
            result = CliRunner().invoke(main, [*command, "--trust-remote-code"])
            assert result.exit_code == 0, result.output
        assert Path(out, "odd.py").is_file()
