"""What `learn` has found, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergekit_fair.escaping import one_line
from mergekit_fair.report.tables import Table, as_text, value_text

if TYPE_CHECKING:
    from mergekit_fair.learn.learn_results import Epoch, Learned

_SHOWN = ("objective", "acc", "dpd", "eod")


def learned_text(learned: Learned) -> str:
    """What every number of epochs gives on fitted and on left-out rows, and which was chosen."""
    titles = ["epoch", *(f"{name}, {part}" for name in _SHOWN for part in ("fitted", "left out"))]
    options = learned.options
    objective: str = options.objective
    if objective in ("dpd", "eod"):
        objective = f"soft errors and {objective.upper()}, mu {options.mu:g}"
    text = f"{learned.chosen} epochs: least on left-out rows; λ were learned anew on all of them"
    if not learned.chosen:
        text = "left-out rows show no gain: the recipe is kept as it is"
    return "\n".join(
        [
            one_line(learned.recipe),
            f"{learned.numbers} numbers, one for each vector and {options.per}; objective: "
            f"{objective}; {learned.rows:,} validation rows of {one_line(learned.data)}",
            as_text(Table.plain(titles, [_row(each) for each in learned.epochs])),
            text,
            *(f"note: {one_line(note)}" for note in learned.notes),
        ]
    )


def _row(epoch: Epoch) -> list[str]:
    pairs = (
        value_text(getattr(part, name))
        for name in _SHOWN
        for part in (epoch.fitted, epoch.left_out)
    )
    return [str(epoch.epoch), *pairs]
