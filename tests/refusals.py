"""Errors are asserted by their type and fields; their sentences stand in `messages.txt` only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from mergekit_fair.errors import FairError


@contextmanager
def raises(
    kind: type[FairError], *shows: str, **fields: Any
) -> Iterator[pytest.ExceptionInfo[FairError]]:
    """As `pytest.raises`, and the error has these fields.

        with raises(DataError, "first at row 5", where="groups.only", got="Femal"):
            load_rows(spec)

    Args:
        kind: the type itself, not one above it.
        shows: values that the message must name: rows, counts, tensors. Not its wording.
        fields: `where`, `got`, `allowed`, `fix`. A text or a path must be part of the field's
            text, anything else must equal the field.
    """
    with pytest.raises(kind) as caught:
        yield caught
    _check(caught.value, kind, shows, fields)


def refusal(result: Result, kind: type[FairError], *shows: str, **fields: Any) -> FairError:
    """The error behind the one message with which a command has refused its input (exit code 2).

    `CliRunner` has run the command; nothing is on standard output. Arguments as of `raises`.
    """
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    error: BaseException | None = result.exception
    while error is not None and not isinstance(error, FairError):
        error = error.__cause__ or error.__context__
    assert error is not None, f"no error of ours behind it: {result.stderr}"
    assert result.stderr == f"Error: {error}\n"
    _check(error, kind, shows, fields)
    return error


def _check(
    error: FairError, kind: type[FairError], shows: tuple[str, ...], fields: dict[str, Any]
) -> None:
    assert type(error) is kind, repr(error)
    for name, expected in fields.items():
        actual = getattr(error, name)
        if isinstance(expected, (str, Path)):
            assert str(expected) in str(actual), f"{name} of {error}"
        else:
            assert actual == expected, f"{name} of {error}"
    for text in shows:
        assert text in str(error)
