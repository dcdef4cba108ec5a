"""`measure` of classes and of several labels a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from multi_samples import three_classes
from refusals import refusal
from tiny import words_of

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, DataError, FairError
from mergekit_fair.fairness import cross, measure_classes, measure_labels
from mergekit_fair.fairness.groups import Groups

N = 360
CLASSES = ("--label", "class", "--prediction", "said", "--groups", "sex", "--classes", "all")
LABELS = ("--labels", "toxic:toxic_said,threat:threat_said", "--groups", "sex")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = np.array(["hate", "offensive", "neither"])
    labels, sex = rng.integers(0, 3, N), rng.choice(["f", "m"], N)
    logits = 2 * np.eye(3)[labels] + rng.gumbel(size=(N, 3))
    logits[sex == "f", 0] += 1
    toxic, threat = rng.integers(0, 2, N), rng.integers(0, 2, N)
    return pd.DataFrame(
        {
            "class": names[labels],
            "said": names[logits.argmax(axis=1)],
            "toxic": toxic,
            "toxic_said": np.where(rng.random(N) < 0.8, toxic, 1 - toxic),
            "threat": threat,
            "threat_said": np.where(rng.random(N) < 0.7, threat, 1 - threat),
            "sex": sex,
            "race": rng.choice(["b", "w"], N),
            "w": rng.integers(1, 4, N),
            "author": rng.integers(0, 60, N),
        }
    )


@pytest.fixture(scope="module")
def table(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    frame.to_csv(path, index=False)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, words_of("measure", *arguments))


def found(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class TestFigures:
    def test_classes_are_fairlearns_one_against_the_rest(
        self, table: Path, frame: pd.DataFrame
    ) -> None:
        measured = found(table, *CLASSES)
        gaps: dict[str, list[float]] = {"dpd": [], "eod": []}
        for name in ("hate", "neither", "offensive"):
            columns = (frame["class"] == name, frame["said"] == name)
            options = {"sensitive_features": frame["sex"]}
            gaps["dpd"].append(demographic_parity_difference(*columns, **options))
            gaps["eod"].append(equalized_odds_difference(*columns, **options))
        for key, values in gaps.items():
            assert measured["macro"][key]["value"] == pytest.approx(np.mean(values), abs=1e-12)
            assert measured["worst"][key]["value"] == pytest.approx(max(values), abs=1e-12)
        assert measured["acc"]["value"] == np.mean(frame["class"] == frame["said"])

    def test_they_are_those_of_the_functions(self, table: Path, frame: pd.DataFrame) -> None:
        sampled = {"weights": frame["w"], "clusters": frame["author"]}
        measured = found(table, *CLASSES, "--weight", "w", "--cluster", "author")
        expected = measure_classes(
            frame["class"], frame["said"], frame["sex"], min_group_size=30, **sampled
        )
        assert measured["macro"] == expected.to_dict()["macro"]
        assert measured["views"] == expected.to_dict()["views"]
        labels, said = (
            {name: frame[f"{name}{end}"] for name in ("toxic", "threat")} for end in ("", "_said")
        )
        measured = found(table, *LABELS)
        expected = measure_labels(labels, said, frame["sex"], min_group_size=30)
        assert measured["worst"] == expected.to_dict()["worst"]

    def test_intersections(self, table: Path, frame: pd.DataFrame) -> None:
        options = ("--label", "class", "--prediction", "said", "--classes", "all")
        measured = found(table, *options, "--groups", "sex*race")
        groups = cross(*(Groups.of(frame[name], N) for name in ("sex", "race")))
        expected = measure_classes(frame["class"], frame["said"], groups, min_group_size=30)
        assert measured["worst"]["dpd"]["value"] == expected.worst["dpd"].value
        assert len(measured["views"]["hate"]["groups"]) == 4

    def test_samples_need_no_options(self, tmp_path: Path) -> None:
        file = tmp_path / "samples_t.jsonl"
        file.write_text("".join(json.dumps(each) + "\n" for each in three_classes(120)))
        measured = found(file)
        assert list(measured["views"]) == ["hate", "offensive", "neither"]

    def test_an_empty_prediction_is_none(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        silent = frame.copy()
        silent.loc[:3, "said"] = None
        silent.to_csv(tmp_path / "t.csv", index=False)
        assert found(tmp_path / "t.csv", *CLASSES)["unanswered"] == 4

    def test_the_table(self, table: Path) -> None:
        result = run(table, *CLASSES)
        assert result.exit_code == 0, result.output
        assert "worst_eod" in result.output
        assert "offensive" in result.output


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DataError, ("--label", "class", "--prediction", "said", "--groups", "sex")),
        (DataError, (*CLASSES[:-1], "hate,neither")),
        (DataError, ("--label", "class", "--prediction", "sex", *CLASSES[4:])),
        (ConfigError, (*CLASSES, "--positive", "hate")),
        (ConfigError, (*CLASSES, "--threshold", "0.5")),
        (ConfigError, (*CLASSES, "--labels", "toxic:toxic_said")),
        (ConfigError, (*LABELS, "--label", "toxic")),
        (ConfigError, ("--labels", "toxic", *LABELS[2:])),
        (ConfigError, ("--labels", "toxic:toxic_said,toxic:threat_said", *LABELS[2:])),
        (DataError, ("--labels", "toxic:nothing", *LABELS[2:])),
        (DataError, ("--labels", "class:said", *LABELS[2:])),
        (ConfigError, ("--label", "class", "--score", "w", "--classes", "all", "--groups", "sex")),
    ],
)
def test_refusals(table: Path, kind: type[FairError], options: tuple[str, ...]) -> None:
    refusal(["measure", table, *options], kind)


def test_a_column_of_many_values_is_no_column_of_classes(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    many = frame.assign(**{"class": np.arange(N), "said": np.arange(N)})
    many.to_csv(tmp_path / "t.csv", index=False)
    refusal(["measure", tmp_path / "t.csv", *CLASSES], DataError, where="class")
