"""`cluster`: which rows are sampled together, and that they share a split."""

import numpy as np
import pytest
from refusals import raises

from mergekit_fair.data import load_rows
from mergekit_fair.errors import DataError

COLUMNS = ("text", "label", "group", "split", "author")
SHARES = {"shares": {"train": 0.5, "validation": 0.25, "report": 0.25}}


def table(authors):
    return [
        (f"text {row}", row % 2, "ab"[row // 2 % 2], ("train", "validation", "report")[row % 3], it)
        for row, it in enumerate(authors)
    ]


@pytest.fixture
def clustered(spec):
    return lambda authors, **changes: load_rows(
        spec(table(authors), COLUMNS, cluster="author", **changes)
    )


def test_clusters_go_with_their_rows(clustered, spec):
    rows = clustered(["x", "y", "x", "", "y", "1.0", "1", "NA", *"abcdefgh"])
    codes = rows.clusters
    assert codes.dtype == np.int64
    assert (codes >= 0).all()
    assert codes[0] == codes[2]
    assert codes[1] == codes[4]
    assert len(set(codes.tolist())) == 14  # x and y twice; two cells that hold nothing are apart
    assert rows.take([4, 0]).clusters.tolist() == codes[[4, 0]].tolist()
    assert rows.of("report").clusters.tolist() == codes[2::3].tolist()
    assert load_rows(spec(table("x" * 16), COLUMNS)).clusters is None


def test_rows_that_are_appended_change_no_cluster(clustered):
    authors = [f"author {row % 5}" for row in range(16)]
    before = clustered(authors).clusters
    after = clustered(["a new one", *authors[1:], "another"]).clusters
    assert after[1:16].tolist() == before[1:].tolist()


def test_a_fingerprint_covers_clusters_where_there_are_any(clustered, spec):
    plain = load_rows(spec(table("x" * 16), COLUMNS)).fingerprint()
    prints = {plain, clustered("ab" * 8).fingerprint(), clustered("aabb" * 4).fingerprint()}
    assert len(prints) == 3


def test_rows_of_a_cluster_share_a_split(clustered):
    authors = [f"author {row % 40}" if row % 7 else "" for row in range(240)]
    rows = clustered(authors, splits=SHARES)
    parts = {}
    for code, part in zip(rows.clusters.tolist(), rows.split.tolist(), strict=True):
        assert parts.setdefault(code, part) == part
    assert set(parts.values()) == {"train", "validation", "report"}
    assert not any("cluster" in text for text in rows.warnings)
    by_row = clustered(authors, splits={**SHARES, "by": "text"})
    assert any(text.startswith("cluster: 4") for text in by_row.warnings)
    assert any("in two splits or more" in text for text in clustered(authors).warnings)


def test_an_unknown_column(spec):
    with raises(DataError, "'autor'", where="data set 'small', cluster", allowed=list(COLUMNS)):
        load_rows(spec(table("x" * 16), COLUMNS, cluster="autor"))


def test_rows_of_a_unit_have_one_cluster(spec):
    units = [
        (f"text {row // 2}", row // 2 % 2, "ab"[row % 4 // 2], "train", row) for row in range(8)
    ]
    options = {"splits": {"column": "split", "names": {"train": "train"}}, "cluster": "author"}
    with raises(DataError, "'author'", "rows 0 and 1", where="one_row_per"):
        load_rows(spec(units, COLUMNS, one_row_per={"column": "text"}, **options))
