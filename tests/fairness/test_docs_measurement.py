"""The Python blocks of docs/measurement.md print what the document says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from examples import NumberChecker, examples_of, require_examples_hold

DOCUMENT = Path(__file__).parents[2] / "docs" / "measurement.md"


def test_python_blocks_print_what_they_say() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    assert require_examples_hold(examples_of("\n".join(blocks), DOCUMENT.name)) > 10


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("low=0.05649313166017634", "low=0.05649313166017623", True),
        ("low=0.05649313", "low=0.05649314", False),
        ("[0.0, 1.5]", "[1.2e-17, 1.5]", True),
        ("(2000, 0.5)", "(2001, 0.5)", False),
        ("acc 0.5", "dpd 0.5", False),
        ("[0.5]", "[0.5, 0.5]", False),
        ("value=None", "value=0.5", False),
        ("-0.25", "0.25", False),
        ("a ... 0.5", "a long text 0.5", True),
    ],
)
def test_examples_may_differ_in_rounding_only(want: str, got: str, same: bool) -> None:
    assert NumberChecker().check_output(f"{want}\n", f"{got}\n", doctest.ELLIPSIS) is same
