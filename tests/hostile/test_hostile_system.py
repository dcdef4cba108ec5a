"""A system that fails: exit code 1, one message with the output's name, and nothing left."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from errno import EIO, ENOSPC, EROFS
from pathlib import Path

import pytest
from scene import listing

from mergekit_fair.errors import CheckpointError

FULL, FAILED, FIXED = map(os.strerror, (ENOSPC, EIO, EROFS))


def failing(monkeypatch, call, number, *, where="", after=0, last=999):
    """Let a call of the system fail for paths that hold `where`, after some times and to `last`."""
    module, _, name = call.rpartition(".")
    owner = {"os": os, "Path": Path}[module]
    real, times = getattr(owner, name), 0

    def fail(*given, **more):
        nonlocal times
        times += where in str(given[0])
        if where in str(given[0]) and after < times <= last:
            # As the system does: a path in errors of open and rename, none in those of write.
            raise OSError(number, os.strerror(number), *map(str, given[:1] if where else ()))
        return real(*given, **more)

    monkeypatch.setattr(owner, name, fail)


CALLS = {
    "room": ("os.posix_fallocate", ENOSPC, {}, FULL),
    "first-write": ("os.pwrite", ENOSPC, {}, FULL),
    "later-write": ("os.pwrite", ENOSPC, {"after": 1}, FULL),
    "flush": ("os.fsync", EIO, {}, FAILED),
    "folder": ("Path.mkdir", EROFS, {"where": ".out.partial"}, FIXED),
    "lock": ("os.open", EROFS, {"where": ".out.lock"}, FIXED),
    "tokenizer": ("Path.write_bytes", ENOSPC, {}, FULL),
    "card": ("Path.write_text", ENOSPC, {}, FULL),
    "manifest": ("Path.write_text", ENOSPC, {"after": 2}, FULL),
    "rename": ("Path.rename", EIO, {"where": ".out.partial"}, FAILED),
}


@pytest.mark.parametrize(("call", "number", "when", "reason"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "overwrite"])
def test_a_call_that_fails(scene, monkeypatch, call, number, when, reason, is_there):
    if is_there:
        scene.merged()
        scene.write(scene.addition(lambda_=0.5))
    failing(monkeypatch, call, number, **when)
    more = ["--overwrite"] if is_there else []
    assert scene.refused(*more, code=1) == f"HERE/out: {reason}"


@pytest.mark.parametrize("call", ["os.fsync", "Path.rename"])
def test_each_call_that_fails_once(scene, monkeypatch, call):
    """The old model stays as it is until the new one is there, and whole."""
    scene.merged()
    scene.write(scene.addition(lambda_=0.5))
    before = listing(scene.here)
    for turn in range(20):
        with monkeypatch.context() as patch:
            failing(patch, call, EIO, after=turn, last=turn + 1)
            result = scene.invoke("--overwrite")
        if result.exit_code == 0:
            break
        assert (result.exit_code, result.stderr) == (1, f"Error: {scene.here}/out: {FAILED}\n")
        assert listing(scene.here) == before
    assert turn > 1
    assert scene.invoke("--overwrite").exit_code == 0
    assert not list(scene.here.glob(".*"))


def test_the_disk_says_once_that_it_failed(scene, monkeypatch):
    """While the merge goes on, by a flush whose error the last flush would not repeat."""
    place = "mergekit_fair.merging.shard_files"
    monkeypatch.setattr(f"{place}.BLOCK", 4096)
    monkeypatch.setattr(f"{place}.FLUSHED_FROM", 0)
    monkeypatch.setattr(f"{place}.set_direct", lambda *_: False)
    failing(monkeypatch, "os.fdatasync", EIO)
    assert scene.refused(code=1) == f"HERE/out: {FAILED}"


def test_a_limit_on_the_size_of_files(scene):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        assert scene.refused(code=1) == "HERE/out: File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_too_little_space_is_told_before_the_merge(scene, monkeypatch):
    free = type("Usage", (), {"free": 500_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    scene.refuses(
        CheckpointError,
        "got '0.5 MB free'",
        "allowed: 1.1 MB or more",
        where="HERE",
        arguments=("--lambda", "0:1:0.1"),
    )


@pytest.mark.parametrize("place", ["/proc/out", "/proc/self/mem/out"])
def test_places_where_nothing_can_be_made(scene, place):
    message = scene.refused(code=2 if "mem" in place else 1, out=place)
    assert message.startswith("/proc/")


def test_an_interruption(scene, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.pwrite", interrupted)
    before = {path.name for path in scene.here.iterdir()}
    result = scene.invoke()
    assert (result.exit_code, result.stderr.strip()) == (1, "Aborted!")
    assert {path.name for path in scene.here.iterdir()} == before


DISKS = {"full": "size=108k", "fixed": "ro"}
ON_DISKS = """
import os, sys
from click.testing import CliRunner
from mergekit_fair.cli import main
for disk in sys.argv[1:]:
    result = CliRunner().invoke(main, ["merge", "r.yml", f"{disk}/out", "--quiet"])
    print([result.exit_code, result.stdout, result.stderr, os.listdir(disk)])
"""


def test_a_full_and_a_fixed_disk(scene):
    test = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", scene.here]
    if subprocess.run(test, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here, not even in a namespace of its own")
    # The weights fit on the first, what comes beside them does not.
    mounts = [f"mkdir {n}; mount -t tmpfs -o {o} none {n}; " for n, o in DISKS.items()]
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", "".join(mounts) + 'exec "$@"']
    words += ["sh", sys.executable, "-c", ON_DISKS, *DISKS]
    found = subprocess.run(words, cwd=scene.here, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == [
        *(str([1, "", f"Error: full/out: {FULL}\n", []]),),
        *(str([1, "", f"Error: fixed/out: {FIXED}\n", []]),),
    ], found.stderr


def test_the_program_itself(scene):
    file = scene.here / "Male" / "model.safetensors"
    size = file.stat().st_size
    os.truncate(file, size + 1)
    words = [sys.executable, "-m", "mergekit_fair", "merge", "r.yml", "out", "--quiet"]
    told = subprocess.run(words, cwd=scene.here, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (
        2,
        "",
        f"Error: {file}: is truncated or damaged; got '{size + 1} bytes'; allowed: {size} bytes, "
        "as its header says. Copy or train the model again.\n",
    )
    assert not list(scene.here.glob(".*"))
    assert not (scene.here / "out").exists()
