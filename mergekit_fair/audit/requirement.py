"""Requirements on a merge: `fair_bbq/bias_ambig <= base + 0.02`.

    [abs(]TASK/METRIC[/GROUP][)]  OP  [abs(]MODEL[)] [± NUMBER]  or  NUMBER

What stands on the left is the merge's; MODEL is `base` or the name of a parent, whose figure is the
same metric of the same task (and group). A name that could be read otherwise, such as that of a
parent called `0.5` or `a + 0.02`, stands in quotes: `t/acc >= "0.5"`. A requirement is met by the
figures that were measured; whether the difference could also be noise is said beside it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mergekit_fair.errors import ConfigError
from mergekit_fair.schema import nearest

FORM = (
    "TASK/METRIC <= MODEL + 0.02, or TASK/METRIC/GROUP >= 0.5; abs(…) around either side; in "
    "quotes a name that holds / < > = or looks like a number"
)
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_QUOTED = r"\"[^\"]+\"|'[^']+'"
_PART, _REST = (rf"(?:{_QUOTED}|[^{no}\"'\s][^{no}]*?)" for no in ("<>=/", "<>="))
_WRITTEN = re.compile(
    rf"\s*(?P<size>abs\(\s*)?(?P<task>{_PART})\s*/\s*(?P<metric>{_PART})"
    rf"(?:\s*/\s*(?P<group>{_REST}))?(?(size)\s*\))\s*(?P<operator><=|>=|<|>)\s*"
    rf"(?P<right>(?P<number>{_NUMBER})|(?P<models_size>abs\(\s*)?(?P<model>{_REST})"
    rf"(?(models_size)\s*\))(?:\s+(?P<sign>[+-])\s*(?P<margin>{_NUMBER}))?)\s*"
)


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
        right: all that stands on the right.
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
    right: str = ""

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
        >>> Requirement.parse("fair_bbq/acc >= 'a + 0.02' - 0.01").model
        'a + 0.02'
        """
        if (read := _WRITTEN.fullmatch(text)) is None:
            raise ConfigError("is no requirement", where="--require", got=text, allowed=FORM)
        margin = float(read["number"] or read["margin"] or 0)
        if not math.isfinite(margin):
            raise ConfigError("has a number without end", where="--require", got=text)
        return cls(
            text.strip(),
            _bare(read["task"]),
            _bare(read["metric"]),
            _bare(read["group"]) if read["group"] else None,
            read["operator"],
            _bare(read["model"]) if read["model"] else None,
            -margin if read["sign"] == "-" else margin,
            read["size"] is not None,
            read["models_size"] is not None,
            read["right"].strip(),
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
            ConfigError: an unknown one, with the near one; or a model is called like something
                else that the right side says.
        """
        where = f"--require {self.text}"
        _known(self.task, set(metrics), "task", where)
        if self.group is None:
            _known(self.metric, metrics[self.task], "metric", where)
        else:
            _known(self.metric, by_group[self.task], "metric by group", where)
            _known(self.group, groups[self.task], "group", where)
        if self.right in models and self.right != self.model:
            raise ConfigError(
                "a model is called so, and it is read otherwise",
                where=where,
                got=self.right,
                fix=f'write "{self.right}" with its quotes for the model'
                + ("" if self.model else f", or +{self.right} for the number"),
            )
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


def _bare(name: str) -> str:
    """Without the quotes around it."""
    return name[1:-1] if re.fullmatch(_QUOTED, name.strip()) else name.strip()


def _known(name: str, known: set[str], what: str, where: str) -> None:
    if name not in known:
        raise ConfigError(
            f"unknown {what} {name!r}{nearest(name, sorted(known))}",
            where=where,
            allowed=sorted(known),
        )
