"""Errors are asserted by their type and fields; their sentences stand in `messages.txt` only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import pytest
from click.testing import CliRunner

from mergekit_fair.cli import InputError, main
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


def refusal(
    arguments: Sequence[object], kind: type[FairError], *shows: str, **fields: Any
) -> FairError:
    """Runs `mergekit-fair ARGUMENTS`, which must refuse its input: the error behind the message.

    One line on standard error, nothing on standard output, exit code 2. The rest as of `raises`.
    """
    # click leaves the error before it exits, so that the exit does not lead back to it.
    with patch.object(InputError, "show", autospec=True, side_effect=InputError.show) as show:
        result = CliRunner().invoke(main, [str(word) for word in arguments])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.count("\n") == 1, result.stderr
    _require_options(str(arguments[0]), result.stderr)
    error = show.call_args.args[0].__cause__
    assert result.stderr == f"Error: {error}\n"
    _check(error, kind, shows, fields)
    return error


def _require_options(command: str, text: str) -> None:
    """What is advised can be typed: options are those of the command, others stand in backticks."""
    if command == "exec":  # the options of another program
        return
    own = main.get_command(click.Context(main), command)
    assert own is not None
    known = {name for param in own.params for name in (*param.opts, *param.secondary_opts)}
    named = re.findall(r"(?<![\w-])--[a-z][\w-]*", re.sub(r"`[^`]*`", "", text))
    assert set(named) <= known, (set(named) - known, text)


def _check(
    error: BaseException, kind: type[FairError], shows: tuple[str, ...], fields: dict[str, Any]
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
