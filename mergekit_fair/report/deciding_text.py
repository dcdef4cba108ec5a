"""Which groups make a gap, in words."""

from __future__ import annotations

from mergekit_fair.fairness import Measurement
from mergekit_fair.fairness.deciding import Deciding
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.report.tables import short, value_text


def made_by(deciding: Deciding) -> str:
    """`a − b`, the higher rate first; nothing where nobody makes it.

    >>> made_by(Deciding(rate="tpr", highest="a", lowest="b")), made_by(Deciding())
    ('a − b', '')
    """
    return "" if deciding.all_alike else " − ".join(map(short, deciding.groups))


def worst_of(view: str | None, deciding: Deciding | None) -> str:
    """`hate: a − b`: the class or label with the worst gap, and the groups that make it."""
    made = "" if deciding is None else made_by(deciding)
    return "–" if view is None else f"{short(view)}: {made}" if made else short(view)


def deciding_text(deciding: Deciding, measured: Measurement) -> str:
    """The groups that make a gap, in words: "TPR of a (0.812) minus that of b (0.617)"."""

    def of(name: str) -> str:
        return f"{short(name)} ({value_text(getattr(measured.groups[name], str(deciding.rate)))})"

    title = GROUP_RATES[str(deciding.rate)].title
    if deciding.highest is not None and deciding.lowest is not None:
        return f"the {title} of {of(deciding.highest)} minus that of {of(deciding.lowest)}"
    other = {"one_vs_rest": "its rest", "to_overall": "all rows"}[measured.reference]
    side = "above" if deciding.highest is not None else "below"
    return f"how far the {title} of {of(deciding.groups[0])} is {side} that of {other}"
