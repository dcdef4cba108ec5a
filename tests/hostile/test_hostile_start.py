"""Processes that start, print or end in odd ways."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, model_serializer
from scene import Scene, listing

from mergekit_fair import hook
from mergekit_fair.cli import main
from mergekit_fair.cli.cmd_hook import LINE


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    python = [sys.executable, *options.pop("python", [])]
    environment = {**os.environ, **options.pop("variables", {})}
    return subprocess.run(
        [*python, *map(str, words)],
        capture_output=True, text=True, check=False, env=environment, timeout=120, **options,
    )  # fmt: skip


BROKEN = {
    "leaves": "raise SystemExit(3)",
    "is interrupted": "raise KeyboardInterrupt",
    "fails": "raise RuntimeError",
    "is no Python": "(",
    "has no arm": "",
    "ends all": "raise BaseException('gone')",
    "leaves when armed": "def arm(): raise SystemExit(3)",
    "has no memory": "raise MemoryError",
}


@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN)
def test_a_hook_never_stops_python(code: str, tmp_path: Path) -> None:
    """The line of the .pth file, as `site` executes it."""
    package = tmp_path / "mergekit_fair"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "hook.py").write_text(code)
    program = f"{LINE}\nprint('goes on')"
    done = run("-S", "-c", program, variables={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_a_registration_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(name: str) -> None:
        raise SystemExit(name)

    monkeypatch.setattr("importlib.import_module", leave)
    with pytest.warns(RuntimeWarning, match="goes on without"):
        hook._register("mergekit.plan", "gone", "away", "methods")


def test_without_docstrings() -> None:
    """transformers cannot be imported then."""
    done = run("-m", "mergekit_fair", "methods", python=["-OO"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: Python runs without docstrings (-OO")
    assert done.stderr.count("\n") == 1


def test_too_little_memory_for_the_libraries(scene: Scene) -> None:
    done = run(
        *("-m", "mergekit_fair", "check", scene.here / "r.yml"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (250_000_000, 250_000_000)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there is not enough memory")
    assert "Traceback" not in done.stderr


SAID = {
    "Python": MemoryError(),
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"
    ),
    "a GPU": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "a thread": RuntimeError("can't start new thread"),
    "a library": ImportError("libtorch_cpu.so: failed to map segment from shared object"),
}


@pytest.mark.parametrize("error", SAID.values(), ids=SAID)
def test_too_little_memory(error: Exception, scene: Scene, monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mergekit_fair.merging.to_disk.write_weights", fail)
    assert scene.refused(code=1).startswith("there is not enough memory")


def test_a_fault_of_our_own_keeps_its_traceback(scene: Scene, monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mergekit_fair.merging.to_disk.describe_models", fail)
    assert isinstance(scene.invoke().exception, RuntimeError)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_of_another_encoding(encoding: str) -> None:
    variables = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    code = "from mergekit_fair.cli.failures import failures_told\n"
    code += "from mergekit_fair.cli.terminal import echo\n"
    code += "with failures_told(): echo('\\u03bb \\u5973 \\x1b')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert b"\x1b" not in done.stdout
    if encoding != "ascii":  # click takes it for a mistake, and writes UTF-8
        assert done.stdout.decode(encoding).rstrip().endswith(r"\x1b")


def test_who_reads_has_had_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("mergekit_fair.resources.tasks_dir", fail)
    result = CliRunner().invoke(main, ["tasks-dir"])
    assert (result.exit_code, result.stderr) == (1, "")


def test_text_that_utf_8_cannot_hold(scene: Scene, monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        "a\udcff".encode()

    monkeypatch.setattr("mergekit_fair.merging.to_disk.describe_models", fail)
    assert scene.refused().startswith(r"a\udcff: is text that UTF-8 cannot hold")


@pytest.mark.parametrize(
    ("raised", "code", "said"), [(KeyboardInterrupt(), 1, "Aborted!"), (SystemExit(143), 143, "")]
)
def test_a_signal_that_meets_a_serializer(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    """pydantic makes an error of its own of it."""

    class Interrupted(BaseModel):
        @model_serializer
        def fail(self) -> str:
            raise raised

    monkeypatch.setattr("mergekit_fair.resources.tasks_dir", lambda: Interrupted().model_dump())
    result = CliRunner().invoke(main, ["tasks-dir"])
    assert (result.exit_code, result.stderr.strip()) == (code, said)


# What a signal, or Ctrl-C, must not leave behind.
ENDINGS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
COMMANDS = {
    "merge": (["merge", "r.yml", "out"], "mergekit_fair.merging.to_disk.write_weights"),
    "grid": (
        ["merge", "r.yml", "out", "--lambda", "0:1:0.5"],
        "mergekit_fair.merging.to_disk.write_weights",
    ),
    "vectors": (
        ["vectors", "r.yml", "-o", "runs/out"],
        "mergekit_fair.report.figures.vectors_pictures",
    ),
    "basis": (
        ["basis", "build", "r.yml", "-o", "runs/out"],
        "mergekit_fair.vectors.basis_files._stored_errors",
    ),
}


def ended(scene: Scene, command: str, number: int) -> int:
    """The exit code of a forked child that is at work when the signal comes."""
    words, where = COMMANDS[command]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_a_child(scene, words, where, writing)
    os.close(writing)
    assert os.read(reading, 99) == b"at work"
    os.close(reading)
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_a_child(scene: Scene, words: list[str], where: str, writing: int) -> NoReturn:
    def wait(*_: object, **__: object) -> None:
        os.write(writing, b"at work")
        signal.pause()

    code: object = 99
    # In the background both may be ignored, which the command respects: nobody would ever come.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        os.chdir(scene.here)
        with patch(where, wait):
            main(words)
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code if isinstance(code, int) else 98)


@pytest.mark.parametrize("command", ["merge", "grid", "vectors"])
@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_leaves_nothing(scene: Scene, command: str, number: int) -> None:
    before = listing(scene.here)
    assert ended(scene, command, number) == (1 if number == signal.SIGINT else 128 + number)
    assert listing(scene.here) == before


@pytest.mark.slow
def test_a_signal_leaves_nothing_of_a_basis(scene: Scene) -> None:
    test_a_signal_leaves_nothing(scene, "basis", signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nohup asks for."""
    seen = {}

    def look() -> str:
        seen.update({number: signal.getsignal(number) for number in ENDINGS})
        return ""

    monkeypatch.setattr("mergekit_fair.resources.tasks_dir", look)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert CliRunner().invoke(main, ["tasks-dir"]).exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen[signal.SIGHUP] == signal.SIG_IGN
    assert callable(seen[signal.SIGTERM])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
