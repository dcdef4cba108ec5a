"""A small data set that tests change piece by piece."""

import csv

import pytest

from mergekit_fair.data import load_spec

COLUMNS = ("text", "label", "group", "split")
ROWS = [
    (f"text {index}", index % 2, "ab"[index // 2 % 2], split)
    for index, split in enumerate(["train"] * 8 + ["validation"] * 4 + ["report"] * 4)
]


@pytest.fixture
def block(tmp_path):
    """`block(rows, columns, **changes)`: writes rows.csv and returns a block that reads it."""

    def build(rows=ROWS, columns=COLUMNS, **changes):
        with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        whole = {
            "name": "small",
            "source": str(tmp_path / "rows.csv"),
            "text": "text",
            "label": {"column": "label"},
            "groups": {"column": "group"},
            "splits": {"column": "split"},
        }
        return {key: value for key, value in {**whole, **changes}.items() if value is not None}

    return build


@pytest.fixture
def spec(block):
    """`spec(rows, columns, **changes)`: the same as a `DataSpec`."""
    return lambda *args, **changes: load_spec(block(*args, **changes))
