"""Foreign paths that lead elsewhere, and files that are none: refused before anything is read."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from refusals import raises
from scene import Scene

from mergekit_fair.checkpoints.headers import MOST_TENSORS, read_header
from mergekit_fair.cli import main
from mergekit_fair.data import Rows, load_rows, load_spec, package_file
from mergekit_fair.data.images import image_file
from mergekit_fair.errors import CheckpointError, ConfigError, DataError, TrainingError
from mergekit_fair.files import is_file_name, text_of, write_atomic
from mergekit_fair.schema import load_yaml


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, and a file of somebody beside it."""
    home = tmp_path / "site" / "wheeled"
    (home / "data").mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "data" / "rows.csv").write_text("a\n1\n")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (home / "data" / "link.csv").symlink_to(tmp_path / "secret.csv")
    (home / "data" / "up").symlink_to(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return home


OUTSIDE = {
    "absolute": ("wheeled", "HERE/secret.csv"),
    "two points": ("wheeled", "../../secret.csv"),
    "two points within": ("wheeled", "data/../../../secret.csv"),
    "a link": ("wheeled", "data/link.csv"),
    "a link to a folder": ("wheeled", "data/up/secret.csv"),
    "by the module": ("wheeled.HERE", "secret.csv"),
    "points in the module": ("wheeled.data....", "HERE/secret.csv"),
}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("named", OUTSIDE.values(), ids=OUTSIDE)
def test_a_package_source_stays_in_the_package(named: tuple[str, str], tmp_path: Path) -> None:
    module, file = (text.replace("HERE", str(tmp_path)) for text in named)
    with raises(DataError, "out of the installed package"):
        package_file(module, file)


def test_a_package_source_that_is_there(package: Path, tmp_path: Path) -> None:
    assert package_file("wheeled", "data/rows.csv") == package / "data" / "rows.csv"
    assert package_file("wheeled", "data/../data/rows.csv").is_file()
    # An installer that makes links of all files.
    cache = package.rename(tmp_path / "cache")
    package.mkdir()
    for name in ("__init__.py", "data"):
        (package / name).symlink_to(cache / name)
    assert package_file("wheeled", "data/rows.csv").is_file()
    with raises(DataError):
        package_file("wheeled", "data/link.csv")


@pytest.mark.parametrize("cell", ["../secret.png", "a/../../secret.png", "{here}/secret.png"])
@pytest.mark.parametrize("kind", [str, lambda text: {"bytes": None, "path": text}])
def test_a_picture_stays_in_its_folder(cell: str, kind: Any, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    text = cell.replace("{here}", str(tmp_path))
    with raises(DataError, where="pictures", got=text):
        image_file(kind(text), str(tmp_path / "pictures"))


def test_pictures_that_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    file = tmp_path / "pictures" / "a" / "1.png"
    file.write_bytes(b"x")
    for cell in ("a/1.png", "a/../a/1.png", str(file)):
        assert image_file(cell, str(tmp_path / "pictures")) == file
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "pictures"))
    assert image_file({"bytes": None, "path": str(file)}, str(tmp_path / "other")) == file


SECRET = "s3cret-value"


def test_a_value_of_the_environment_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", SECRET)
    block = {
        **{"name": "d", "source": "${KEY}/rows.csv", "text": "text"},
        **{"label": {"column": "y"}, "groups": {"column": "g"}},
        "splits": {"shares": {"report": 1}},
    }
    spec = load_spec(block, folder=tmp_path)
    assert SECRET in str(spec.source.path)
    with pytest.raises(DataError) as caught:
        load_rows(spec)
    assert SECRET not in str(caught.value)
    assert "${KEY}/rows.csv: no such file" in str(caught.value)
    with pytest.raises(OSError, match=SECRET) as failed:
        Path(str(spec.source.path)).read_text()
    assert SECRET not in str(DataError(f"cannot be read: {failed.value}"))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _memory(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.mkdir()


def _dead(path: Path) -> None:
    path.symlink_to("nowhere")


SPECIAL = {
    **{"pipe": _pipe, "socket": _socket, "device": _device, "memory": _memory},
    **{"link to itself": _circle, "folder": _folder, "dead link": _dead},
}
special = pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)


@special
def test_a_recipe_that_is_no_file(make: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("r.yml"))
    with pytest.raises(ConfigError):
        load_yaml("r.yml")


@special
def test_a_table_that_is_no_file(make: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("rows.csv"))
    block = {
        **{"name": "d", "source": "rows.csv", "text": "text", "label": {"column": "y"}},
        **{"groups": {"column": "g"}, "splits": {"shares": {"report": 1}}},
    }
    with pytest.raises(DataError):
        load_rows(load_spec(block))


@special
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_of_a_model_that_is_none(
    make: Any, name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scene.here / "base"
    monkeypatch.chdir(folder)
    (folder / name).unlink(missing_ok=True)
    make(Path(name))
    result = scene.invoke()
    if result.exit_code == 0:  # what is no file of the base is not carried
        assert not (scene.here / "out" / name).exists() or name != "tokenizer.json"
        return
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


@special
def test_results_that_are_no_file(make: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("results.json"))
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2)
    assert result.stderr.count("\n") == 1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="pipe"):
        text_of(tmp_path / "a")


def test_a_configuration_that_is_enormous(scene: Scene) -> None:
    os.truncate(scene.here / "base" / "config.json", 500_000_001)
    scene.refuses(CheckpointError, where="HERE/base")


def test_what_is_planted_beside_an_output(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    for plant in (lambda p: p.symlink_to("victim"), os.mkfifo, lambda p: p.write_text("half")):
        plant(tmp_path / ".out.partial")
        write_atomic(tmp_path / "out", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "victim": "mine",
        "out": "new",
    }


def test_a_lock_that_is_a_link(scene: Scene) -> None:
    (scene.here / "victim").write_text("mine")
    (scene.here / ".out.lock").symlink_to("victim")
    scene.invoke()
    assert (scene.here / "victim").read_text() == "mine"


@pytest.mark.parametrize("name", ["../evil", "a/b", "\x1b[2J", "x" * 300, "-rf", "a\u202eb"])
def test_a_task_whose_name_is_a_path(name: str, tmp_path: Path) -> None:
    from mergekit_fair.evaluation.eval_folder import require_file_name

    with raises(ConfigError, got=name):
        require_file_name(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../evil", "a\\b", "a\nb", "x" * 300, "-rf"])
def test_a_group_whose_name_is_a_path(name: str) -> None:
    from mergekit_fair.training.family import subgroups

    config = SimpleNamespace(subgroups=SimpleNamespace(only=None, min_rows=1))
    rows = Rows(
        name="d",
        kind="text",
        inputs=("a", "b"),
        labels=np.array([0, 1], dtype=np.int8),
        group_names=(name,),
        excluded=frozenset(),
        membership=np.ones((2, 1), dtype=bool),
        split=np.array(["train"] * 2),
        ids=np.arange(2),
    )
    with raises(TrainingError, "cannot be a folder name"):
        subgroups(config, rows)  # type: ignore[arg-type]


def test_a_text_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergekit_fair.schema.LONGEST", 10)
    (tmp_path / "r.yml").write_text("a: 12345678")
    with raises(ConfigError, "(it is longer than 10 characters)"):
        load_yaml(tmp_path / "r.yml")


def test_a_header_of_a_million_tensors(tmp_path: Path) -> None:
    """11 s and a gigabyte, before there was a bound."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    count = MOST_TENSORS + 1
    text = b'{"a":{}' + f',"b":{json.dumps(entry)}'.encode() * count + b"}"
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with raises(CheckpointError, f"{MOST_TENSORS:,} tensors", where=file):
        read_header(file)


BAD_YAML = {
    "aliases of aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{k}: &{k} [*{j},*{j},*{j},*{j},*{j},*{j},*{j}]\n"
        for j, k in ("ab", "bc", "cd", "de", "ef", "fg")
    ),
    "itself": "a: &a [*a]",
    "deep lists": "a: " + "[" * 10_000,
    "deep mappings": "".join(" " * i + "a:\n" for i in range(1000)),
    "a huge integer": "merge_method: linear\nparameters: {weight: " + "9" * 10_000 + "}",
    "a huge hexadecimal": "merge_method: linear\nparameters: {weight: 0x" + "f" * 10_000 + "}",
    "base 60": "merge_method: linear\nparameters: {weight: " + "1:" * 2000 + "1}",
    "infinite": "merge_method: linear\nparameters: {weight: .inf}",
    "a date": "merge_method: 2020-13-45",
    "a tag": "merge_method: !!python/object/apply:os.system [id]",
    "a null byte": "merge_method: 'a\0b'",
    "an escape": 'merge_method: "a\\x1b[2Jb"',
    "half a pair": 'merge_method: "\\ud800"',
    "a list": "- merge_method: linear",
    "two documents": "merge_method: linear\n---\nmerge_method: linear",
    "a key that is a list": "? [a]\n: b\nmerge_method: linear",
    "a long name": "merge_method: " + "x" * 100_000,
    "a path with lines": 'merge_method: linear\nmodels: [{model: "a\\nb"}]',
    "a path that is no name": 'merge_method: linear\nmodels: [{model: "a\\0b"}]',
    "a path that is long": f"merge_method: linear\nmodels: [{{model: {'x' * 5000}}}]",
    "a path like an option": "merge_method: linear\nmodels: [{model: --help}]",
}


@pytest.mark.parametrize("text", BAD_YAML.values(), ids=BAD_YAML)
def test_a_recipe_that_is_a_trap(text: str, scene: Scene) -> None:
    scene.write(text)
    message = scene.refused(code=2)
    assert message.isprintable()
    assert len(message) < 6000


def test_names_of_files_that_are_none() -> None:
    bad = ["", ".", "..", ".a", "a/b", "/etc/passwd", "a\\b", "C:a", "a\0b", "a\nb", "a\u202eb"]
    bad += ["-rf", "~root", " a", "a ", "a.", "a?", "a*", "x" * 300, "ü" * 200, "a\ud800"]
    assert [name for name in bad if is_file_name(name)] == []
    assert all(map(is_file_name, ["Female", "女性", "18-25", "a b", "50+", "African-American"]))
