"""Pictures: files in a folder, or bytes inside a table that are written to a cache once."""

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from refusals import raises

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.data.images import image_file, open_image
from mergekit_fair.errors import DataError
from mergekit_fair.files import cache_folder


def picture(number):
    content = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 0, 0)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def faces(tmp_path, cache):
    """`faces(cells)`: the rows of a table whose image column holds these cells."""
    assert cache

    def build(cells, **splits):
        n = len(cells)
        frame = pd.DataFrame(
            {
                "image": cells,
                "label": [row % 2 for row in range(n)],
                "group": ["ab"[row // 2 % 2] for row in range(n)],
            }
        )
        frame.to_parquet(tmp_path / "faces.parquet")
        block = {
            "name": "faces",
            "source": str(tmp_path / "faces.parquet"),
            "image": {"column": "image", "folder": str(tmp_path)},
            "label": {"column": "label"},
            "groups": {"column": "group"},
            "splits": {"shares": {"train": 0.5, "validation": 0.5}, **splits},
        }
        return load_rows(load_spec(block))

    return build


def test_bytes_become_files_once(faces, cache):
    cells = [{"bytes": picture(number), "path": f"{number}.png"} for number in range(16)]
    rows = faces(cells)
    assert all(Path(path).is_relative_to(cache) for path in rows.inputs)
    assert open_image(rows.inputs[3]).getpixel((0, 0)) == (3, 0, 0)
    times = {path: Path(path).stat().st_mtime_ns for path in rows.inputs}
    assert {path: Path(path).stat().st_mtime_ns for path in faces(cells).inputs} == times
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 16


def test_equal_pictures_are_equal_inputs_so_that_they_share_a_split(faces):
    cells = [{"bytes": picture(number // 2), "path": None} for number in range(64)]
    rows = faces(cells, on_leak="error")
    assert len(set(rows.inputs)) == 32
    assert len(set(zip(rows.inputs, rows.split.tolist(), strict=True))) == 32
    assert set(rows.split) == {"train", "validation"}


def test_plain_bytes_and_file_names(faces, tmp_path):
    (tmp_path / "one.png").write_bytes(picture(1))
    assert image_file("one.png", str(tmp_path)) == tmp_path / "one.png"
    assert image_file({"bytes": None, "path": "one.png"}, str(tmp_path)) == tmp_path / "one.png"
    assert image_file(picture(1), ".").read_bytes() == picture(1)
    assert len(faces([picture(number) for number in range(16)])) == 16


@pytest.mark.parametrize("cell", [None, "", " ", b"", {"bytes": None, "path": None}, 3, "gone.png"])
def test_what_is_no_picture(cell, tmp_path):
    assert image_file(cell, str(tmp_path)) is None


def test_missing_pictures_are_named(faces):
    cells = [{"bytes": picture(number), "path": None} for number in range(16)]
    cells[5] = {"bytes": None, "path": "gone.png"}
    with raises(DataError, "1 of 16", "row 5", "gone.png", where="image.folder"):
        faces(cells)


def test_half_a_file_in_the_cache_is_written_again(faces):
    cells = [{"bytes": picture(number), "path": None} for number in range(16)]
    broken = Path(faces(cells).inputs[0])
    broken.write_bytes(b"half")
    faces(cells)
    assert broken.read_bytes() == picture(0)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("MERGEKIT_FAIR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("images") == tmp_path / "mergekit-fair" / "images"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MERGEKIT_FAIR_CACHE", str(tmp_path / "file"))
    where = tmp_path / "file" / "images"
    with raises(DataError, where=where, fix="MERGEKIT_FAIR_CACHE") as caught:
        image_file(picture(0), ".")
    assert isinstance(caught.value.__cause__, OSError)
