"""A disk that is full, in every command that writes: the file is named, and nothing is left."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from attacks import swept
from click.testing import CliRunner
from scene import Scene, listing

from mergekit_fair.cli import main
from mergekit_fair.cli.failures import failures_told
from mergekit_fair.files import placed, write_atomic, write_cached, write_together
from mergekit_fair.progress import Silent
from mergekit_fair.report.outputs import write_outputs

FULL, LARGE = os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG)


@contextmanager
def no_flush(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What was written cannot be brought to the disk; the system names no file."""

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, FULL)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        yield FULL


@contextmanager
def no_large_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """No file may be larger than a few bytes."""
    del monkeypatch
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        yield LARGE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAULTS = {"flush": no_flush, "size": no_large_files}
faulty = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


def refused(words: list[str], folder: Path, fault: Any, monkeypatch: Any) -> str:
    """The message of a command that must end with exit code 1 and change nothing."""
    before = listing(folder)
    with fault(monkeypatch) as reason:
        result = CliRunner().invoke(main, words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f": {reason}\n"), result.stderr
    assert result.stderr.count("\n") == 1
    assert listing(folder) == before
    return result.stderr


@faulty
@pytest.mark.parametrize("words", [["vectors"], ["basis", "build"], ["grid"]], ids=" ".join)
def test_what_reads_a_recipe(words: list[str], fault: Any, scene: Scene, monkeypatch: Any) -> None:
    out = scene.here / "runs" / "new" / "out"
    words = [*words, str(scene.here / "r.yml"), "-o", str(out), "--quiet"]
    words += ["--lambda", "0:1:0.5"] if "grid" in words else []
    assert str(out) in refused(words, scene.here, fault, monkeypatch)


@faulty
def test_vectors_that_were_there(fault: Any, scene: Scene, monkeypatch: Any) -> None:
    words = ["vectors", str(scene.here / "r.yml"), "-o", str(scene.here / "out"), "--quiet"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert f"{scene.here}/out/vectors." in refused(words, scene.here, fault, monkeypatch)


@faulty
def test_a_recipe_over_a_basis(fault: Any, scene: Scene, monkeypatch: Any) -> None:
    recipe, out = str(scene.here / "r.yml"), str(scene.here / "out")
    built = CliRunner().invoke(main, ["basis", "build", recipe, "-o", out, "--quiet"])
    assert built.exit_code == 0, built.output
    words = ["basis", "apply", out, recipe, "-o", str(scene.here / "small.yml")]
    assert f"{scene.here}/small.yml" in refused(words, scene.here, fault, monkeypatch)


@faulty
@pytest.mark.parametrize("is_there", [False, True])
def test_an_evaluation(is_there: bool, fault: Any, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "runs" / "eval"
    if is_there:
        out.mkdir(parents=True)
        (out / "notes.txt").write_text("mine")
    results = {"results": {"a": "b" * 99}}
    finished = SimpleNamespace(model="m", arguments={}, samples={}, results=results)
    monkeypatch.setattr("mergekit_fair.evaluation.eval_run.run_tasks", lambda *_: finished)
    monkeypatch.setattr("mergekit_fair.evaluation.eval_run.measure_run", lambda *_, **__: {})
    words = ["eval", "--model", "m", "--tasks", "t", "-o", str(out), "--quiet"]
    assert f"{out}/" in refused(words, tmp_path, fault, monkeypatch)


def test_an_evaluation_that_cannot_be_written_costs_no_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", fixed)
    words = ["eval", "--model", "m", "--tasks", "t", "-o", str(tmp_path / "e"), "--quiet"]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {tmp_path}/e: {os.strerror(errno.EROFS)}\n"
    assert not (tmp_path / "e").exists()


@faulty
@pytest.mark.parametrize("is_there", [False, True])
def test_a_report(is_there: bool, fault: Any, tmp_path: Path, monkeypatch: Any) -> None:
    if is_there:
        write_outputs(swept("plain"), tmp_path, Silent())
    before = listing(tmp_path)
    with (
        pytest.raises(click.ClickException) as caught,
        fault(monkeypatch) as reason,
        failures_told(),
    ):
        write_outputs(swept("other"), tmp_path, Silent())
    assert caught.value.format_message() == f"{tmp_path}/results.csv: {reason}"
    assert listing(tmp_path) == before


@faulty
def test_the_demo(fault: Any, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "runs" / "demo"
    assert f"{out}/" in refused(["demo", "-o", str(out), "--quiet"], tmp_path, fault, monkeypatch)


@faulty
def test_the_hook(fault: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with fault(monkeypatch) as reason:
        result = CliRunner().invoke(main, ["hook", "install"])
    assert result.exit_code == 2
    assert f"{tmp_path}: cannot write" in result.stderr
    assert reason in result.stderr
    assert list(tmp_path.iterdir()) == []


@faulty
def test_training(fault: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import tiny

    config = tiny.write_training(tmp_path, checkpoints=[0.5])
    words = ["train", str(config), "-o", str(tmp_path / "run"), "--device", "cpu", "--quiet"]
    assert f"{tmp_path}/run" in refused(words, tmp_path, fault, monkeypatch)


WRITERS: dict[str, Callable[[Path], None]] = {
    "write_atomic": lambda path: write_atomic(path, "new" * 99),
    "write_cached": lambda path: write_cached(path, "new" * 99),
    "write_together": lambda path: write_together({path: "new", path.with_name("b"): "b" * 99}),
}


@faulty
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_each_way_to_write(write: Any, fault: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a").write_text("old")
    before = listing(tmp_path)
    with pytest.raises(OSError), fault(monkeypatch):  # noqa: PT011
        write(tmp_path / "a")
    assert listing(tmp_path) == before


SAID = {
    "safetensors": "Error while serializing: I/O error: No space left on device (os error 28)",
    "older": 'IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
}


@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
def test_what_libraries_say_of_a_full_disk(text: str, tmp_path: Path) -> None:
    kind = type("SafetensorError", (Exception,), {})
    with pytest.raises(OSError, match=FULL) as caught, placed(tmp_path / "out"):
        raise kind(text)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{tmp_path}/out")
    with pytest.raises(kind), placed(tmp_path / "out"):
        raise kind("I/O error: No such file (os error 2)")


def test_what_torch_says_of_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=FULL), placed(tmp_path / "out"):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    with pytest.raises(RuntimeError), placed(tmp_path / "out"):
        raise RuntimeError("a bug")
