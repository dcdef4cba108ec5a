"""However a merge of this package's methods is started: the same tensors, or the same refusal.

Four routes: `merge`; mergekit's own command under `exec`; the same under the import hook, in a
process of its own; `run_merge` from Python. No option of mergekit's decides what is checked.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import read, rewrite
from click.testing import CliRunner
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from zoo import BY_NAME, Tensors, Trio, write_trio

import mergekit_fair
from mergekit_fair.checkpoints.reader import open_folder, read_whole
from mergekit_fair.cli import main
from mergekit_fair.errors import FairError
from mergekit_fair.merging.methods.formula import COUNTER
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.schema import dump_yaml

FAMILIES = (
    *("bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama", "llama-lm", "qwen2"),
    *("qwen2-lm-tied", "t5-lm", "vit", "resnet"),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "crimes": {"allow_crimes": True},
    # What a popular notebook always passes.
    "notebook": {
        "copy_tokenizer": True,
        "allow_crimes": True,
        "out_shard_size": 1_000_000_000,
        "lazy_unpickle": True,
    },
    "truncate": {"unsafe_truncate_embeddings": True},
    "pickle": {"safe_serialization": False},
    "shards": {"out_shard_size": 20_000, "clone_tensors": True},
}
HOOKED = """
import json, sys
from mergekit_fair import hook
hook.arm()
from mergekit.scripts.run_yaml import main
for line in sys.stdin:
    for recipe, out, arguments in json.loads(line):
        try:
            main([recipe, out, *arguments], standalone_mode=False)
            print("RESULT written")
        except Exception as error:
            print("RESULT", type(error).__name__, " ".join(str(error).split()))
    print("RESULT end", flush=True)
"""


def flags(options: dict[str, Any]) -> list[str]:
    words = ["--quiet", "--no-write-model-card"]
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def tensors_in(folder: Path) -> Tensors:
    reader = open_folder(folder, allow_pickle=True)
    try:
        return {name: read_whole(reader, name).clone() for name in reader.tensors}
    finally:
        reader.close()


def by_command(words: list[str]) -> str:
    result = CliRunner().invoke(main, words)
    if result.exit_code == 0:
        return "written"
    assert result.exit_code == 2, result.output or repr(result.exception)
    return f"refused: {result.stderr.splitlines()[-1].removeprefix('Error: ')}"


def by_python(recipe: Path, out: Path, options: dict[str, Any]) -> str:
    mergekit_fair.register()
    settings = MergeOptions(quiet=True, write_model_card=False, **options)
    try:
        run_merge(Recipe.load(recipe).for_mergekit(), str(out), settings)
    except FairError as error:
        return f"refused: {error}"
    return "written"


Jobs = list[tuple[Path, Path, dict[str, Any]]]
Hooked = Callable[[Jobs], list[str]]


@pytest.fixture(scope="module")
def hooked() -> Iterator[Hooked]:
    """What came of jobs in a process whose hook is armed; one serves all."""
    command = [sys.executable, "-c", HOOKED]
    with (
        tempfile.TemporaryFile("w+") as warned,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=warned, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        said = (line.rstrip("\n") for line in process.stdout)
        results = (line.removeprefix("RESULT ") for line in said if line.startswith("RESULT "))

        def run(jobs: Jobs) -> list[str]:
            asked = [[str(recipe), str(out), flags(options)] for recipe, out, options in jobs]
            print(json.dumps(asked), file=process.stdin, flush=True)
            words = list(itertools.takewhile(lambda word: word != "end", results))
            warned.seek(0)
            assert len(words) == len(jobs), warned.read()
            return [w if w == "written" else f"refused: {w.partition(' ')[2]}" for w in words]

        yield run
        process.stdin.close()


def every_route(recipes: dict[str, Path], hooked: Hooked) -> dict[tuple[str, str], dict[str, str]]:
    """Name of a recipe and options → route → what came of it.

    Outputs lie beside the recipe, as OPTIONS-ROUTE.
    """
    came: dict[tuple[str, str], dict[str, str]] = {}
    jobs = []
    for name, recipe in recipes.items():
        for label, options in OPTIONS.items():
            words, folder = flags(options), recipe.parent
            exec_ = ["exec", "mergekit-yaml", str(recipe), str(folder / f"{label}-exec"), *words]
            came[name, label] = {
                "merge": by_command(["merge", str(recipe), str(folder / f"{label}-merge"), *words]),
                "exec": by_command(exec_),
                "python": by_python(recipe, folder / f"{label}-python", options),
            }
            jobs.append((recipe, folder / f"{label}-hook", options))
    for key, result in zip(came, hooked(jobs), strict=True):
        came[key]["hook"] = result
    return came


def write(trio: Trio, folder: Path) -> Path:
    path = folder / "recipe.yml"
    path.write_text(dump_yaml(trio.recipe(dtype="float32")))
    return path


@pytest.mark.parametrize(
    "families",
    [("bert", "vit"), pytest.param(tuple(FAMILIES), marks=pytest.mark.slow)],
    ids=["two", "all"],
)
def test_every_route_writes_the_same_tensors(
    families: tuple[str, ...], hooked: Hooked, tmp_path: Path
) -> None:
    trios = {
        name: write_trio(tmp_path / name, BY_NAME[name], (torch.float32,) * 3) for name in families
    }
    recipes = {name: write(trio, tmp_path / name) for name, trio in trios.items()}
    came = every_route(recipes, hooked)
    for (family, label), results in came.items():
        assert set(results.values()) == {"written"}, (family, label, results)
        expected = tensors_in(tmp_path / family / "plain-merge")
        assert expected.keys() == read(trios[family].base).keys()
        for route in results:
            result = tensors_in(tmp_path / family / f"{label}-{route}")
            assert result.keys() == expected.keys(), (family, label, route)
            unequal = [name for name in expected if not is_same(name, result, expected)]
            assert not unequal, (family, label, route, unequal)


def is_same(name: str, result: Tensors, expected: Tensors) -> bool:
    """To the bit; mergekit's engine saves a BatchNorm's counters as floats."""
    is_alike = name.endswith(COUNTER) or result[name].dtype == expected[name].dtype
    return is_alike and torch.equal(result[name].to(expected[name].dtype), expected[name])


def config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def head(folder: Path) -> None:
    weight = torch.randn(2, 32, generator=torch.Generator().manual_seed(8))
    rewrite(folder, lambda tensors: tensors.update({"classifier.weight": weight}))


# What is wrong with a model → how; a part of the refusal.
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "classes": (lambda f: config(f, id2label={"0": "no", "1": "yes"}), "names the classes"),
    "head": (head, "unrelated"),
    "quantised": (lambda f: config(f, quantization_config={"quant_method": "awq"}), "(AWQ)"),
    "architecture": (lambda f: config(f, architectures=["BertModel"]), "other architectures"),
    "lost": (
        lambda f: rewrite(f, lambda t: t.pop("bert.pooler.dense.bias")),
        "1 missing ['bert.pooler.dense.bias']",
    ),
    "absent": (lambda f: shutil.rmtree(f), "no such model folder"),
}


def test_every_route_refuses_the_same_inputs(hooked: Hooked, tmp_path: Path) -> None:
    recipes = {}
    for name, (change, _) in WRONG.items():
        trio = write_trio(tmp_path / name, BY_NAME["bert"], (torch.float32,) * 3)
        for folder in trio.folders:
            config(folder, id2label={"0": "yes", "1": "no"})
        recipes[name] = write(trio, tmp_path / name)
        change(trio.a)
    for (name, label), results in every_route(recipes, hooked).items():
        texts = {text.replace(f"{recipes[name]}: ", "recipe: ") for text in results.values()}
        assert len(texts) == 1, (name, label, results)
        (text,) = texts
        assert text.startswith("refused: "), (name, label, text)
        assert WRONG[name][1] in text, (name, label, text)
    assert not list(tmp_path.glob("*/*-*/*.safetensors"))
    assert not list(tmp_path.glob("*/*-*/*.bin"))
