"""Folders and files appear complete or not at all."""

import os
import subprocess
import sys

import pytest
from refusals import raises

from mergekit_fair.disk import flush_data
from mergekit_fair.errors import ConfigError
from mergekit_fair.files import (
    cache_folder,
    lock_folder,
    staged_folder,
    write_atomic,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged_folder(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        assert not out.exists()
        assert folder.name == ".out.partial"
    assert (out / "sub" / "file").read_text() == "x"
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_block_leaves_nothing(tmp_path, failure):
    def run():
        with staged_folder(tmp_path / "out") as folder:
            (folder / "file").write_text("half")
            raise failure

    with pytest.raises(failure):
        run()
    assert names(tmp_path) == []


def test_an_existing_folder_or_file_is_kept(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match=r"exists already\. Choose another folder"):
        staged_folder(out).__enter__()
    file = tmp_path / "file"
    file.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="exists already"):
            staged_folder(file, overwrite=overwrite).__enter__()
    assert names(tmp_path) == ["file", "out"]


def test_overwriting_replaces_the_whole_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("x")
    with staged_folder(out, overwrite=True, known=names) as folder:
        (folder / "new").write_text("x")
        assert names(out) == ["old"]
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]
    with pytest.raises(ValueError, match="no"), staged_folder(out, overwrite=True, known=names):
        raise ValueError("no")
    assert names(out) == ["new"]


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    for name in (".out.partial", ".out.old", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("x")
    with staged_folder(tmp_path / "out", overwrite=True, known=names) as folder:
        assert names(folder) == []
        (folder / "new").write_text("x")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new"]


def test_write_atomic(tmp_path):
    path = tmp_path / "file.json"
    write_atomic(path, "λ")
    assert path.read_text(encoding="utf-8") == "λ"
    write_atomic(path, b"\0\1")
    assert path.read_bytes() == b"\0\1"
    assert names(tmp_path) == ["file.json"]


HOLD = """
import sys
from pathlib import Path
from mergekit_fair.files import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_by_a_live_process_and_free_when_it_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with raises(ConfigError, where=tmp_path / "run"):
            lock_folder(tmp_path / "run")
        holder.kill()
    lock = lock_folder(tmp_path / "run")
    with raises(ConfigError, where=tmp_path / "run"):
        lock_folder(tmp_path / "run")
    lock.close()
    lock_folder(tmp_path / "run").close()


def test_an_output_is_made_by_one_process_and_its_lock_leaves_nothing(tmp_path):
    with staged_folder(tmp_path / "out"):
        with raises(ConfigError, where=tmp_path / "out"):
            staged_folder(tmp_path / "out").__enter__()
        assert ".out.lock" in names(tmp_path)
    assert names(tmp_path) == ["out"]


def test_systems_without_fdatasync_flush_everything(monkeypatch):
    """macOS has no `os.fdatasync`."""
    flushed = []
    monkeypatch.delattr(os, "fdatasync", raising=False)
    monkeypatch.setattr(os, "fsync", flushed.append)
    flush_data(7)
    assert flushed == [7]


def test_where_caches_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "own"))
    assert cache_folder("norms") == tmp_path / "own" / "norms"
    monkeypatch.delenv("MERGEKIT_FAIR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("norms") == tmp_path / "mergekit-fair" / "norms"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("norms") == tmp_path / "home" / ".cache" / "mergekit-fair" / "norms"
