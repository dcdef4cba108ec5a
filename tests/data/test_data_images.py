"""Pictures: files in a folder, or bytes inside a table that are written to a cache once."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from refusals import raises

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.data.images import image_file, open_image
from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.model_inputs import ImageInputs
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


HALVES = Image.new("RGB", (4, 2), "red")
HALVES.paste("blue", (2, 0, 4, 2))


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize(
    ("tag", "back"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_orientation_tags_are_followed(tmp_path, suffix, tag, back):
    """A camera stores what its sensor saw, and beside it how the camera was held."""
    stored = HALVES if back is None else HALVES.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = tag
    path = saved(
        stored.resize((stored.width * 8, stored.height * 8), 0), tmp_path / f"a.{suffix}", exif=exif
    )
    for found in (open_image(path), open_image(Image.open(path))):
        assert found.size == (32, 16)
        left, right = found.getpixel((4, 8)), found.getpixel((28, 8))
        assert left[0] > 200 > 60 > left[2]
        assert right[2] > 200 > 60 > right[0]


def test_models_see_pictures_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(HALVES.transpose(Image.Transpose.ROTATE_90), tmp_path / "a.png", exif=exif)
    seen = []
    ImageInputs([path], lambda images, **_: seen.extend(images) or {}).batch([0])
    assert np.array_equal(np.asarray(seen[0]), np.asarray(HALVES))


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path):
    grey = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(grey), tmp_path / "a.png")
    assert np.asarray(open_image(path))[0, :, 1].tolist() == [0, 1, 128, 255]


def palette(*colours, **options):
    picture = Image.new("P", (len(colours), 1))
    picture.putpalette([level for colour in colours for level in colour])
    picture.putdata(range(len(colours)))
    picture.info |= options
    return picture


@pytest.mark.parametrize(
    ("picture", "suffix", "expected"),
    [
        (palette((1, 2, 3), (9, 8, 7)), "png", (1, 2, 3)),
        (palette((1, 2, 3), (9, 8, 7), transparency=0), "png", (255, 255, 255)),
        (palette((1, 2, 3), (9, 8, 7), transparency=1), "gif", (1, 2, 3)),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), "png", (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 51)), "webp", (204, 204, 204)),
        (Image.new("LA", (2, 2), (7, 255)), "png", (7, 7, 7)),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "tiff", (0, 0, 0)),
        (Image.new("L", (2, 2), 9), "png", (9, 9, 9)),
        (Image.new("1", (2, 2), 1), "png", (255, 255, 255)),
    ],
)
def test_modes_are_what_a_viewer_shows(tmp_path, picture, suffix, expected):
    found = open_image(saved(picture, tmp_path / f"a.{suffix}", lossless=True))
    assert found.mode == "RGB"
    assert found.getpixel((0, 0)) == expected


def frames(path):
    first, *others = (Image.new("RGB", (4, 4), (50 * n, 0, 0)) for n in range(3))
    first.save(path, save_all=True, append_images=others)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_several_frames_are_refused(tmp_path, name):
    with raises(DataError, "frames", where=tmp_path / name):
        open_image(frames(tmp_path / name))


def test_the_first_picture_of_a_camera(tmp_path):
    assert open_image(frames(tmp_path / "a.mpo")).getpixel((0, 0)) == (0, 0, 0)


def test_what_cannot_be_shown(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), file).read_bytes()
    for content in (b"", b"GIF89a", whole[:60], whole[:-400], whole[:200] + b"xx" + whole[202:]):
        file.write_bytes(content)
        with raises(DataError, where=file):
            open_image(file)
    with raises(DataError, "No such file", where=tmp_path / "none.png"):
        open_image(tmp_path / "none.png")
    floats = saved(Image.fromarray(np.ones((2, 2), np.float32)), tmp_path / "a.tiff")
    with raises(DataError, "32 bits", where=floats):
        open_image(floats)
    file.write_bytes(whole)
    for limit in (1000, 100):  # a warning of Pillow's, and an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with raises(DataError, "bomb", where=file):
            open_image(file)
