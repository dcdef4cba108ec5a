"""One table, three ways; columns stand where a terminal shows them."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from mergekit_fair.report.tables import Cell, Row, Table, as_markdown, as_text

TABLE = Table(
    caption="people",
    corner="group",
    columns=["n", "acc"],
    sections=[
        ("", [Row("Female", [Cell("7"), Cell("+0.500", "[+0.250, +0.750]", strong=True)])]),
        (
            "others",
            [
                Row("Male", [Cell("13"), Cell("–")], tags=["chosen"], chosen=True),
                Row("x", [Cell("the scores are NaN")], minor=True),
            ],
        ),
    ],
    foot="n = 20.",
)


def test_text() -> None:
    assert as_text(TABLE).splitlines() == [
        "   group   n   acc",
        "   Female  7   +0.500 [+0.250, +0.750] !",
        "   others",
        "*  Male    13  –                          chosen",
        "   x                                      the scores are NaN",
        "n = 20.",
    ]


def test_markdown() -> None:
    assert as_markdown(TABLE).splitlines() == [
        "| group | n | acc |",
        "| --- | --: | --: |",
        "| Female | 7 | **+0.500** [+0.250, +0.750] |",
        "| **others** |  |  |",
        "| **Male** *chosen* | 13 | – |",
        "| x | the scores are NaN |  |",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "女性",  # two columns a letter
        "Zoe\u0308",  # a combining letter takes none
        "ﾋﾟ",  # half width
        "👩🏽",
        "наука",
        "",
    ],
)
def test_columns_are_aligned_by_what_a_terminal_shows(name: str) -> None:
    rows = [[name, "left", "right"], ["Female", "l", "right"], ["中" * 12, "left", "right"]]
    lines = as_text(Table.plain(["group", "a", "b"], rows)).splitlines()[1:]
    starts = {cell_len(line[: line.index("right")]) for line in lines}
    assert len(starts) == 1
    assert cell_len("女性") == 4
    assert cell_len("e\u0308") == 1
