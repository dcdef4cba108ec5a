"""The exceptions of mergekit-fair.

    FairError
    ├── ConfigError       a YAML file or an option: unknown key, wrong type, missing value
    ├── DataError         a data source: missing column, unknown label, empty group
    ├── RecipeError       a merge recipe: method, models, groups, parameters
    ├── CheckpointError   a model folder: missing, damaged, of another architecture
    ├── TrainingError     a fine-tuning run that cannot start or go on
    ├── MeasurementError  labels, predictions or groups that no metric is defined on
    │   └── ScoreError    a model whose scores are NaN or infinite
    ├── SweepError        a sweep that cannot be planned, resumed or selected from
    └── WorkerError       a process that works for a command, and is lost or fails

Every message says where (file, key, model, tensor), what was wrong, what was given, what is
allowed and what to do, on one line; what is foreign in it does nothing to a terminal, and it shows
no password. The command line prints it and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Iterable

from mergekit_fair.escaping import one_line

# Characters of what was given that a message repeats.
_LONGEST = 500


class FairError(Exception):
    """A problem that the user can fix.

    Args:
        problem: what is wrong, one clause.
        where: file, key, model or tensor.
        got: what was given.
        allowed: the values that would have been accepted.
        fix: what to do.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: object = None,
        got: object = None,
        allowed: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = where
        self.got = got
        self.allowed = allowed
        self.fix = fix
        super().__init__(self._message())

    def _message(self) -> str:
        text = self.problem if self.where is None else f"{self.where}: {self.problem}"
        if self.got is not None:
            text += f"; got {_shown(self.got)}"
        if self.allowed is not None:
            text += f"; allowed: {_listed(self.allowed)}"
        if self.fix:
            end = "" if text.endswith((".", "?", "!")) else "."
            text += f"{end} {self.fix[0].upper()}{self.fix[1:]}"
        return one_line(text if text.endswith((".", "?", "!")) else text + ".")


class ConfigError(FairError):
    """A YAML file or a command-line option is not what it should be."""


class DataError(FairError):
    """A data source does not fit its description."""


class RecipeError(FairError):
    """A merge recipe cannot be carried out."""


class CheckpointError(FairError):
    """A model folder is missing, damaged or does not fit the others."""


class TrainingError(FairError):
    """A fine-tuning run cannot start or go on."""


class MeasurementError(FairError):
    """Labels, predictions or groups that no metric is defined on."""


class ScoreError(MeasurementError):
    """A model's scores are NaN or infinite: its weights have overflown or are damaged."""


class SweepError(FairError):
    """A sweep cannot be planned, resumed or selected from."""


class WorkerError(FairError):
    """A process that works for a command is lost or fails."""


def first_line(error: BaseException) -> str:
    """Of an error's message; its type where it has none.

    >>> first_line(OSError("no model here")), first_line(OSError())
    ('no model here', 'OSError')
    """
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


def _shown(got: object) -> str:
    """What was given, cut where nobody reads on."""
    try:
        text = repr(got)
    except ValueError:  # Python does not write out an integer of thousands of digits
        return f"a very large {type(got).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _listed(allowed: object) -> str:
    if isinstance(allowed, str) or not isinstance(allowed, Iterable):
        return str(allowed)
    return ", ".join(str(value) for value in allowed)
