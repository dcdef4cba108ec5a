"""Requirements on a merge: `fair_bbq/bias_ambig <= base + 0.02`.

    [abs(]TASK/METRIC[/GROUP][)]  OP  [abs(]MODEL[)] [± NUMBER]  or  NUMBER

What stands on the left is the merge's; MODEL is `base` or the name of a parent, whose figure is the
same metric of the same task (and group). A requirement is met by the figures that were measured;
whether the difference could also be noise is said beside it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mergekit_fair.errors import ConfigError
from mergekit_fair.schema import nearest

FORM = "TASK/METRIC <= MODEL + 0.02, or TASK/METRIC/GROUP >= 0.5; abs(…) around either side"
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WRITTEN = re.compile(
    rf"\s*(?P<left>abs\(\s*[^<>=]+?\s*\)|[^<>=]+?)\s*(?P<operator><=|>=|<|>)\s*"
    rf"(?:(?P<number>{_NUMBER})|(?P<right>abs\(\s*[^<>=]+?\s*\)|[^<>=]+?)"
    rf"(?:\s+(?P<sign>[+-])\s*(?P<margin>{_NUMBER}))?)\s*"
)
_ABSOLUTE = re.compile(r"abs\(\s*(.*?)\s*\)")


@dataclass(frozen=True)
class Requirement:
    """One of them.

    Attributes:
        text: as it was given.
        task, metric: whose figure.
        group: of the documents about it; None: of all.
        operator: `<=`, `>=`, `<` or `>`.
        model: whose figure the merge's is compared with; None: `margin` alone.
        margin: what is added to it.
        of_size: whether the merge's figure counts by its size; of_models_size: the model's.
    """

    text: str
    task: str
    metric: str
    group: str | None
    operator: str
    model: str | None
    margin: float
    of_size: bool = False
    of_models_size: bool = False

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a requirement.

        Raises:
            ConfigError: it is of another form.

        >>> found = Requirement.parse("abs(fair_bbq/bias_ambig) <= abs(base) + 0.02")
        >>> found.task, found.metric, found.model, found.margin, found.of_size
        ('fair_bbq', 'bias_ambig', 'base', 0.02, True)
        >>> Requirement.parse("fair_bbq/stereotyped/old people < 0.5").group
        'old people'
        """
        read = _WRITTEN.fullmatch(text)
        left, of_size = _bare(read["left"]) if read else ("", False)
        parts = left.split("/", 2)
        if read is None or len(parts) < 2 or not all(part.strip() for part in parts):
            raise ConfigError("is no requirement", where="--require", got=text, allowed=FORM)
        right, of_models_size = _bare(read["right"] or "")
        margin = float(read["number"] or read["margin"] or 0)
        if not math.isfinite(margin):
            raise ConfigError("has a number without end", where="--require", got=text)
        return cls(
            text.strip(),
            parts[0].strip(),
            parts[1].strip(),
            parts[2].strip() if len(parts) > 2 else None,
            read["operator"],
            right or None,
            -margin if read["sign"] == "-" else margin,
            of_size,
            of_models_size,
        )

    def require_known(
        self,
        metrics: Mapping[str, set[str]],
        by_group: Mapping[str, set[str]],
        groups: Mapping[str, set[str]],
        models: set[str],
    ) -> None:
        """Check names before a model is run.

        Args:
            metrics: task → names.
            by_group: the same of those that groups have.
            groups: the same of groups.
            models: names that may stand on the right.

        Raises:
            ConfigError: an unknown one, with the near one.
        """
        where = f"--require {self.text}"
        _known(self.task, set(metrics), "task", where)
        if self.group is None:
            _known(self.metric, metrics[self.task], "metric", where)
        else:
            _known(self.metric, by_group[self.task], "metric by group", where)
            _known(self.group, groups[self.task], "group", where)
        if self.model is not None:
            _known(self.model, models, "model", where)

    def left(self, of_merge: float | None) -> float | None:
        """What stands on the left."""
        return of_merge if of_merge is None or not self.of_size else abs(of_merge)

    def bound(self, of_model: float | None) -> float | None:
        """What the merge's figure is compared with; None where the model's is undefined."""
        if self.model is None:
            return self.margin
        if of_model is None:
            return None
        return (abs(of_model) if self.of_models_size else of_model) + self.margin

    def is_met(self, of_merge: float | None, of_model: float | None) -> bool:
        """Whether figures meet it; an undefined one does not.

        >>> Requirement.parse("t/dpd <= base + 0.02").is_met(0.11, 0.1)
        True
        """
        bound = self.bound(of_model)
        value = self.left(of_merge)
        return value is not None and bound is not None and _OPERATORS[self.operator](value, bound)


def _bare(side: str) -> tuple[str, bool]:
    """A side without `abs(…)`, and whether that stood around it."""
    found = _ABSOLUTE.fullmatch(side.strip())
    return (found[1], True) if found else (side.strip(), False)


def _known(name: str, known: set[str], what: str, where: str) -> None:
    if name not in known:
        raise ConfigError(
            f"unknown {what} {name!r}{nearest(name, sorted(known))}",
            where=where,
            allowed=sorted(known),
        )
