"""Table and picture of the transfer matrix say what its JSON says."""

import sys

import numpy as np
import pytest

from mergekit_fair.errors import ConfigError
from mergekit_fair.report.transfer_report import draw_transfer, transfer_table
from mergekit_fair.sweep.injection.transfer_matrix import transfer_matrix
from mergekit_fair.sweep.injection.verdicts import judged


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    label, y = rng.choice(3, 3000, p=[0.45, 0.45, 0.1]), rng.integers(0, 2, 3000)
    groups = {"Female": label == 0, "Male": label == 1, "other": label == 2}
    groups["no positives"] = (label == 2) & (y == 0)
    target = np.where(rng.random(3000) < 0.85, y, 1 - y)
    harmful = target.copy()
    harmful[groups["Female"] & (rng.random(3000) < 0.4)] = 1
    stepped = {"Male": harmful, "Female": target.copy()}
    left_out = ["other", "no positives"]
    matrix = transfer_matrix(y, target, stepped, groups, step=0.2, exclude=left_out, draws=400)
    return judged(matrix, 0.1)


def test_table_says_what_json_says(found):
    text = transfer_table(found)
    lines = text.splitlines()
    assert lines[0].startswith("injections at λ = 0.2, changes against the target on the same rows")
    n = found["groups"]["Female"]["n"]
    assert f"Female n={n} " in text
    assert f"(other n={found['groups']['other']['n']})" in text
    for key in ("harm", "acc"):
        parts = found["change"][key]
        value, low, high = (parts[part][0][0] for part in ("value", "low", "high"))
        assert f"{value:+.3f} [{low:+.3f}, {high:+.3f}]!" in text
    quiet = found["change"]["acc"]
    assert f"+0.000 [{quiet['low'][1][0]:+.3f}, {quiet['high'][1][0]:+.3f}] " in text
    row = next(line for line in lines if line.startswith("+ Male"))
    assert row.endswith("–")  # no positives: the gap is undefined
    assert "verdicts, tolerance 0.1\nunsafe  Male at 0.2: the mean of one-vs-rest" in text
    assert "\nsafe    Female at 0.2: at worst the " in text


def test_warnings_are_in_the_table(found):
    text = transfer_table({**found, "warnings": ["few draws"]})
    assert text.endswith("\n\nwarning: few draws")


def test_pictures_are_drawn_and_repeat_byte_for_byte(found, tmp_path):
    from PIL import Image

    names = ["transfer.png", "transfer.svg"]
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        assert [path.name for path in draw_transfer(found, folder)] == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "transfer.png") as picture:
        assert picture.size[0] > 900
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 50  # not blank


def test_nothing_defined_is_drawn_too(found, tmp_path):
    blank = [[None] * 4] * 2
    nothing = {key: dict.fromkeys(("value", "low", "high"), blank) for key in found["change"]}
    empty = {**found, "change": nothing}
    assert len(draw_transfer(empty, tmp_path)) == 2
    assert "–" in transfer_table(empty)


def test_without_matplotlib(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pictures need matplotlib\. Run pip install"):
        draw_transfer(found, tmp_path)
