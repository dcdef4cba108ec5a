"""How to measure: one record, checked when it is made, that every function below takes whole."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypedDict

from mergekit_fair.errors import MeasurementError
from mergekit_fair.fairness.clusters import widened

REFERENCES = ("between_groups", "one_vs_rest", "to_overall")
DRAWS = 2000
MIN_GROUP_SIZE = 30  # what commands, their files and tasks take; Python functions take 1


class SettingOptions(TypedDict, total=False):
    """The keywords of `MetricSettings`, for functions that pass them on."""

    reference: str
    confidence: float
    min_group_size: int
    exclude: Collection[str]
    seed: int
    draws: int
    against: str | None


@dataclass(frozen=True)
class MetricSettings:
    """How metrics and their intervals are computed.

    Attributes:
        reference: what DPD, EOD and equal opportunity compare with, one of `REFERENCES`:
            `between_groups` (max − min), `one_vs_rest` (its worst group) or `to_overall`.
        confidence: of the intervals, in (0, 1).
        min_group_size: a group's rate that is a share of fewer rows, of its own or of the label
            that the rate is about, is reported but decides no maximum; at least 1.
        exclude: names of groups ("other") that are reported but decide no maximum. Compared as
            strings, like the labels of groups; one string is one name.
        seed: of the bootstrap; the same rows, in any order, give the same result.
        draws: number of bootstrap replicates, at least 1.
        against: a group that the rates of all others are also compared with, sign included; None
            for none.

    Raises:
        MeasurementError: a value outside its range.

    >>> settings = MetricSettings(confidence=0.9, exclude="other")
    >>> settings.exclude, settings.draws
    (('other',), 2000)
    """

    reference: str = "between_groups"
    confidence: float = 0.95
    min_group_size: int = 1
    exclude: Collection[str] = ()
    seed: int = 0
    draws: int = DRAWS
    against: str | None = None

    def __post_init__(self) -> None:
        check_reference(self.reference)
        if not 0.0 < self.confidence < 1.0:
            raise MeasurementError(
                "must lie strictly between 0 and 1",
                where="confidence",
                got=self.confidence,
                fix="use 0.95 for a 95 % interval",
            )
        _at_least(1, self.min_group_size, "min_group_size")
        _at_least(0, self.seed, "seed")
        _at_least(1, self.draws, "draws", fix=f"use {DRAWS}")
        names = [self.exclude] if isinstance(self.exclude, str) else self.exclude
        object.__setattr__(self, "exclude", tuple(str(name) for name in names))

    def of_clusters(self, clusters: int) -> MetricSettings:
        """The same settings with a confidence that leaves room for Student's t of few clusters."""
        return replace(self, confidence=min(widened(self.confidence, clusters), 1 - 2**-53))

    def excluding(self, names: Collection[str]) -> MetricSettings:
        """The same settings with these groups left out of every maximum."""
        return replace(self, exclude=names)


def check_reference(reference: str) -> None:
    """Raise MeasurementError unless `reference` is one of `REFERENCES`."""
    if reference not in REFERENCES:
        raise MeasurementError(
            "unknown reference for DPD and EOD",
            where="reference",
            got=reference,
            allowed=REFERENCES,
        )


def _at_least(least: int, number: Any, where: str, fix: str | None = None) -> None:
    if not isinstance(number, Integral) or int(number) < least:
        raise MeasurementError(
            f"must be an integer, at least {least}", where=where, got=number, fix=fix
        )
