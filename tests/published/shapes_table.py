"""The published shapes as a document.

python tests/published/shapes_table.py        # writes docs/published_recipes.md
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import yaml
from outcomes import VERDICTS
from shapes import REFUSED_BY_MERGEKIT, SHAPES, Shape

ALL_FAMILIES = Path(__file__).with_name("all_families.yml")
DOCUMENT = Path(__file__).parents[2] / "docs" / "published_recipes.md"

_HEAD = """# Published recipes

{count} shapes of recipes that people publish (cards of merged models, notebooks, mergekit's own
examples, blogs, courses), each run through mergekit 0.1.5 and through `mergekit-fair merge` on
tiny models. {same} give the same tensor names, the same bits, the same config.json (but for its
dtype, which ours takes from the file that it wrote) and the same tokenizer files, {both} are
refused by both, {ours} by ours alone, for the reason in the table; 0.1.0 refused {before} of those
that mergekit runs. *Says* are the keys that mergekit passes over in silence and a warning names.

{families}

Each shape on each of nine families, measured once (`tests/published/all_families.py`; adapters were
made for llama only):

{measured}

What is refused by both on qwen2 and gemma2 only are slices that change the number of layers:
transformers takes no config.json whose `layer_types` are of another number. *Other* on qwen2 are
two recipes with a chat template: mergekit saves the tokenizer anew, as transformers' own class for
Qwen2 makes it; ours keeps the tokenizer's file and sets the template.

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
        measured=_measured(),
        same=counts["same"],
        both=counts["both"],
        ours=counts["ours"],
        before=sum(shape.before == "refused" for shape in SHAPES),
        families=" ".join(
            f"Of {family}, mergekit runs none:\n{reason}; ours does."
            for family, reason in REFUSED_BY_MERGEKIT.items()
        ),
    )
    return head + "".join(map(_row, SHAPES))


def _measured() -> str:
    """Family → verdict → number of shapes, as a table."""
    counts = yaml.safe_load(ALL_FAMILIES.read_text(encoding="utf-8"))
    lines = [f"| family | {' | '.join(VERDICTS)} |", "|---" * (len(VERDICTS) + 1) + "|"]
    for family, verdicts in counts.items():
        cells = [str(verdicts.get(verdict, 0)) for verdict in VERDICTS]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
