"""The three files of GAP become one table: a row for every passage and name, marked.

    python recipes/gap/mark.py gap-*.tsv.gz -o gap.jsonl

A data description names the column that a text is in; it cannot put marks at offsets, and reads one
file. Every passage has a pronoun and two names, of which it refers to one or none: `< pronoun >`,
`[ name ]` that is asked about, `{ name }` that is the other. It is cut to the `around` words on
either side of these three; `..` stands for what is left out between them. With whole passages a
small encoder stays at chance.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

FEMININE, MASCULINE = {"she", "her", "hers"}, {"he", "him", "his"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="as GAP names them, .tsv or .tsv.gz")
    parser.add_argument("-o", "--out", type=Path, required=True, help="gap.jsonl")
    given = parser.parse_args()
    lines = [json.dumps(row) for file in given.files for row in rows_of(file)]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{given.out}: {len(lines)} rows")


def rows_of(file: Path) -> Iterator[dict[str, str | int]]:
    """Two rows for every passage of a file: name A, name B."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as stream:
        for passage in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            for name in ("A", "B"):
                yield {
                    "id": f"{passage['ID']}-{name}",
                    "text": marked(passage, name),
                    "label": int(passage[f"{name}-coref"].upper() == "TRUE"),
                    "gender": gender(passage["Pronoun"]),
                    "article": passage["URL"],
                }


def marked(passage: dict[str, str], name: str, around: int = 4) -> str:
    """The passage around its marks.

    >>> passage = {"Text": "Ada met Eve; she left.", "A": "Ada", "A-offset": "0", "B": "Eve",
    ...            "B-offset": "8", "Pronoun": "she", "Pronoun-offset": "13"}
    >>> marked(passage, "B")
    '{ Ada } met [ Eve ]; < she > left.'
    """
    text = passage["Text"]
    forms = {part: "[ {} ]" if part == name else "{{ {} }}" for part in ("A", "B")}
    spans = [(*span(passage, part), form) for part, form in forms.items()]
    spans.append((*span(passage, "Pronoun"), "< {} >"))
    parts, place = [], 0
    for start, end, form in sorted(spans):
        between = shortened(text[place:start], around if place else 0, around)
        parts += [between, form.format(text[start:end])]
        place = end
    parts.append(shortened(text[place:], around, 0))
    return "".join(parts).replace("``", '"').replace("''", '"')


def shortened(text: str, first: int, last: int) -> str:
    """A text's first and last words, which begin and end with what stands beside it.

    >>> shortened(" and is not seen again. ", 2, 1)
    ' and is .. again. '
    """
    words = text.split(" ")
    kept = [words[: first + 1] if first else [], words[-last - 1 :] if last else []]
    if len(words) <= sum(map(len, kept)):
        return text
    return " .. ".join(" ".join(each) for each in kept if each)


def span(passage: dict[str, str], part: str) -> tuple[int, int]:
    """Where a name or the pronoun stands; an offset that is not its own is an error."""
    start = int(passage[f"{part}-offset"])
    end = start + len(passage[part])
    if passage["Text"][start:end] != passage[part]:
        raise SystemExit(f"{passage['ID']}: {part} does not stand at {part}-offset")
    return start, end


def gender(pronoun: str) -> str:
    """By the word: GAP has no other pronouns."""
    if pronoun.lower() not in FEMININE | MASCULINE:
        raise SystemExit(f"a pronoun that GAP does not have: {pronoun!r}")
    return "feminine" if pronoun.lower() in FEMININE else "masculine"


if __name__ == "__main__":
    main()
