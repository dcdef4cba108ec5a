"""`audit.json`: what an audit has found."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mergekit_fair.fairness.claims import JudgedDifference
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.intervals import Interval, Number
from mergekit_fair.fairness.pair import Difference
from mergekit_fair.schema import Record

MERGE, BASE = "merge", "base"
RESULTS, PAGE, MODELS = "audit.json", "report.html", "models"
_BEST = {"zero": 0.0, "half": 0.5}


class AuditedModel(Record):
    """A model that was measured.

    Attributes:
        kind: `base`, `parent` or `merge`.
        source: folder or name; of the merge its recipe, or its folder.
        digest: of its files; None of a merge that is in memory.
        way: how it was run: opened from its folder, or put into the base in memory.
    """

    kind: Literal["base", "parent", "merge"]
    source: str
    digest: str | None
    way: str


class AuditedTask(Record):
    """One task.

    Attributes:
        n, clusters: documents, and what is sampled independently, where that is another thing.
        models: model → metric → figure with its interval.
        groups: model → group → metric → the same of documents about the group.
        group_sizes: group → its documents `n`, and its `clusters` where documents come in such.
        differences: parent → metric → merge minus parent, paired, with what is claimed.
        group_differences: parent → group → metric → the same by group; none is claimed.
        views: of classes or labels: model → class or label → its base rate, selection rate, DPD and
            EOD; else empty.
        view_differences: parent → class or label → metric → as in `differences`; none is claimed.
        worst_view: model → `dpd` and `eod` → the class or label with the largest gap.
        deciding: model → gap → the groups that make it.
        sampled: which of its documents were measured, in words; None: all of the split.
        better: metric → `higher`, `lower`, `zero` for a bias of either sign, or `half` for a share
            that is best at 0.5; of others nothing.
        warnings: what a reader should know.
    """

    n: int
    clusters: int | None = None
    models: dict[str, dict[str, Interval]]
    groups: dict[str, dict[str, dict[str, Interval]]] = {}
    group_sizes: dict[str, dict[str, int]] = {}
    differences: dict[str, dict[str, JudgedDifference]]
    group_differences: dict[str, dict[str, dict[str, Difference]]] = {}
    views: dict[str, dict[str, dict[str, Interval]]] = {}
    view_differences: dict[str, dict[str, dict[str, Difference]]] = {}
    worst_view: dict[str, dict[str, str | None]] = {}
    deciding: dict[str, dict[str, Deciding]] = {}
    sampled: str | None = None
    better: dict[str, Literal["higher", "lower", "zero", "half"]] = {}
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()

    def is_gain(self, parent: str, metric: str) -> bool | None:
        """Whether the merge's figure is better than a parent's; None where nobody can say."""
        a, b = (self.models[name][metric].value for name in (parent, MERGE))
        direction = self.better.get(metric)
        if a is None or b is None or direction is None or a == b:
            return None
        if direction in _BEST:
            return abs(b - _BEST[direction]) < abs(a - _BEST[direction])
        return (b > a) == (direction == "higher")


class CheckedRequirement(Record):
    """A requirement and the figures that it is about.

    Attributes:
        text: as it was given.
        met: whether the figures meet it.
        value, bound: the merge's figure, and what it is compared with; None where undefined.
        difference: merge minus model, where one is named and no size is compared; by group without
            a p-value.
    """

    text: str
    met: bool
    value: Number
    bound: Number
    difference: Difference | None = None


class AuditResults(Record):
    """All of it.

    Attributes:
        recipe: file of the recipe; method: its merge method.
        split, limit: documents; a limit takes clusters at random.
        models: name → model, the base first, the merge last.
        tasks: name → what was found.
        requirements: in their order.
        confidence: of the intervals.
    """

    schema_version: Literal[1] = 1
    recipe: str
    method: str
    split: str
    limit: int | None
    confidence: float
    models: dict[str, AuditedModel]
    tasks: dict[str, AuditedTask]
    requirements: Annotated[tuple[CheckedRequirement, ...], Field(strict=False)] = ()
    versions: dict[str, str]

    @property
    def parents(self) -> list[str]:
        """Names of all models but the merge."""
        return [name for name in self.models if name != MERGE]

    @property
    def is_met(self) -> bool:
        """Every requirement."""
        return all(each.met for each in self.requirements)
