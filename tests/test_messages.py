"""All sentences of the package, and how an error puts its own together."""

from __future__ import annotations

import difflib

import pytest
from messages import GOLDEN, all_messages

from mergekit_fair.errors import DataError


def test_every_sentence_stands_in_the_golden_file() -> None:
    golden = GOLDEN.read_text(encoding="utf-8")
    diff = difflib.unified_diff(golden.splitlines(), all_messages().splitlines(), lineterm="", n=0)
    if changed := "\n".join(list(diff)[2:]):
        pytest.fail(
            f"sentences differ from tests/messages.txt; `make messages`, and read:\n{changed}"
        )


def test_the_golden_file_says_what_an_error_says() -> None:
    """By the message of a missing column: its text with the values in place of their names."""
    import pandas as pd

    from mergekit_fair.data.cells import column

    with pytest.raises(DataError) as caught:
        column(pd.DataFrame({"score": [1]}), "scores", "here")
    template = "{where}: no column '{name}'; allowed: {known}. {suggestion(…)}."
    assert f"\ncolumn DataError: {template}\n" in GOLDEN.read_text(encoding="utf-8")
    for name, value in {
        "{where}": "here",
        "{name}": "scores",
        "{known}": "score",
        "{suggestion(…)}.": "Did you mean 'score'?",
    }.items():
        template = template.replace(name, value)
    assert str(caught.value) == template


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "is damaged."),
        ({"where": "a.csv"}, "a.csv: is damaged."),
        ({"got": "x"}, "is damaged; got 'x'."),
        ({"allowed": ("a", 1)}, "is damaged; allowed: a, 1."),
        ({"allowed": "text"}, "is damaged; allowed: text."),
        ({"fix": "copy it again"}, "is damaged. Copy it again."),
        ({"fix": "did you mean 'x'?"}, "is damaged. Did you mean 'x'?"),
        ({"got": "x" * 600}, f"is damaged; got '{'x' * 499} …."),
        ({"got": 10**5000}, "is damaged; got a very large int."),
    ],
)
def test_the_parts_of_a_message(fields, text) -> None:
    error = DataError("is damaged", **fields)
    assert str(error) == text
    for name in ("where", "got", "allowed", "fix"):
        assert getattr(error, name) == fields.get(name)
