"""The published shapes as a document.

python tests/published/shapes_table.py        # writes docs/published_recipes.md
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from shapes import REFUSED_BY_MERGEKIT, SHAPES, Shape

DOCUMENT = Path(__file__).parents[2] / "docs" / "published_recipes.md"

_HEAD = """# Published recipes

{count} shapes of recipes that people publish (cards of merged models, notebooks, mergekit's own
examples, blogs, courses), each run through mergekit 0.1.5 and through `mergekit-fair merge` on
tiny models. {same} give the same tensor names, the same bits, the same config.json (but for its
dtype, which ours takes from the file that it wrote) and the same
tokenizer files, {both} are refused by both, {ours} by ours alone, for the reason in the table;
0.1.0 refused {before} of those that mergekit runs. *Says* are the keys that mergekit passes over
in silence and a warning names.

{families}

`tests/published/shapes.yml` holds the recipes in full and `python tests/published/shapes_table.py`
makes this document from it; the tests beside it hold both true.

| shape | seen in | families | 0.1.0 | now |
|---|---|---|---|---|
"""


def document() -> str:
    """Markdown."""
    counts = Counter(_kind(shape) for shape in SHAPES)
    head = _HEAD.format(
        count=len(SHAPES),
        same=counts["same"],
        both=counts["both"],
        ours=counts["ours"],
        before=sum(shape.before == "refused" for shape in SHAPES),
        families=" ".join(
            f"Of {family}, mergekit runs none, because {reason}; ours does."
            for family, reason in REFUSED_BY_MERGEKIT.items()
        ),
    )
    return head + "".join(map(_row, SHAPES))


def _kind(shape: Shape) -> str:
    if shape.refused is None:
        return "same"
    return "both" if shape.reason is None else "ours"


def _row(shape: Shape) -> str:
    now = "same bits"
    if shape.ignored:
        now += "; says " + ", ".join(f"`{key}`" for key in shape.ignored)
    if shape.refused is not None:
        now = f"refused by both: “{shape.refused}”"
    if shape.reason is not None:
        now = f"refused: {shape.reason}"
    before = shape.before or ("refused" if shape.refused else "same bits")
    return f"| {shape.title} | {shape.seen} | {', '.join(shape.families)} | {before} | {now} |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
