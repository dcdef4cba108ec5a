"""Folders and files appear complete or not at all."""

import pytest

from mergekit_fair.errors import ConfigError
from mergekit_fair.files import staged_folder, write_atomic


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
    with staged_folder(out, overwrite=True) as folder:
        (folder / "new").write_text("x")
        assert names(out) == ["old"]
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]
    with pytest.raises(ValueError, match="no"), staged_folder(out, overwrite=True):
        raise ValueError("no")
    assert names(out) == ["new"]


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    for name in (".out.partial", ".out.old", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("x")
    with staged_folder(tmp_path / "out", overwrite=True) as folder:
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
