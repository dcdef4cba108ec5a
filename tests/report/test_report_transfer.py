"""Table and picture of the transfer matrix say what its JSON says."""

import sys

import numpy as np
import pytest
from transfers import matrix

from mergekit_fair.checkpoints.geometry import Screened
from mergekit_fair.errors import ConfigError
from mergekit_fair.report.figures import draw_transfer
from mergekit_fair.report.outputs import transfer_text
from mergekit_fair.sweep.results import TransferRecord
from mergekit_fair.sweep.verdicts import judged


def changed(found, **changes):
    return TransferRecord.model_validate({**found.to_dict(), **changes})


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
    return judged(matrix(y, target, stepped, groups, step=0.2, exclude=left_out), 0.1)


def test_table_says_what_json_says(found):
    text = transfer_text(found)
    lines = text.splitlines()
    assert lines[0].startswith("injections at λ = 0.2, changes against the target on the same rows")
    n = found.groups["Female"].n
    assert f"Female n={n} " in text
    assert f"(other n={found.groups['other'].n})" in text
    for key in ("harm", "acc"):
        entry = found.change[key].at(0, 0)
        assert f"{entry.value:+.3f} [{entry.low:+.3f}, {entry.high:+.3f}] !" in text
    quiet = found.change["acc"].at(1, 0)
    assert f"+0.000 [{quiet.low:+.3f}, {quiet.high:+.3f}] " in text
    row = next(line for line in lines if line.startswith("+ Male"))
    assert row.endswith("–")  # no positives: the gap is undefined
    verdicts = text[text.index("verdicts, tolerance 0.1\n") :].splitlines()[2:4]
    assert [line.split()[:4] for line in verdicts] == [
        ["Male", "unsafe", "–", "the"],
        ["Female", "safe", "–", "at"],
    ]


@pytest.mark.parametrize(
    ("cosines", "allows", "right"), [((-0.2, 0.03), 1, 2), ((0.4, 0.4), 2, 1), ((0.4, -0.4), 1, 0)]
)
def test_the_sign_test_stands_beside_what_was_measured(found, cosines, allows, right):
    """Male is unsafe, Female is safe; what is unproven, or of unknown cosine, does not count."""
    pairs = zip(("Male", "Female"), cosines, strict=True)
    screening = [Screened(name, cosine, 1.0, 0.0).to_dict() for name, cosine in pairs]
    text = transfer_text(changed(found, screening=screening))
    assert f"allows {allows} of the 2 vectors" in text
    assert f"is right about {right} of them" in text
    unknown = [{"group": "Male", "cosine": 0.3}, screening[1]]  # as an earlier version wrote it
    assert "of the 1 vectors" in transfer_text(changed(found, screening=unknown))
    assert "sign test (" not in transfer_text(found)


def test_marks_are_the_harms_of_the_verdict(found):
    """Not what leaves out 0: within the tolerance, or of a group that decides nothing."""
    assert found.change["harm"].at(0, 0).low > 0.1
    text = transfer_text(changed(found, tolerance=0.9))
    assert "] !" not in text
    safe = [{**one.to_dict(), "status": "unproven"} for one in found.verdicts]
    assert "] !" not in transfer_text(changed(found, verdicts=safe))
    groups = {n: {**g.to_dict(), "decides": False} for n, g in found.groups.items()}
    assert "] !" not in transfer_text(changed(found, groups=groups))


def test_warnings_are_in_the_table(found):
    text = transfer_text(changed(found, warnings=["few draws"], added={"Male": 0.2}))
    assert text.endswith("\n\nwarning: few draws\n\nAdded: 0.2 Male.")


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
    nothing = {key: dict.fromkeys(("value", "low", "high"), blank) for key in found.change}
    empty = changed(found, change=nothing)
    assert len(draw_transfer(empty, tmp_path)) == 2
    assert "–" in transfer_text(empty)


def test_without_matplotlib(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pictures need matplotlib\. Run pip install"):
        draw_transfer(found, tmp_path)
