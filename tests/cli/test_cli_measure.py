"""`measure` as a user calls it: tables, lm-eval's samples, and what it refuses."""

from __future__ import annotations

import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from refusals import refusal
from sklearn.metrics import roc_auc_score
from tiny import words_of

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, DataError, MeasurementError
from mergekit_fair.fairness import cross, measure, score_quality
from mergekit_fair.fairness.groups import Groups

N = 240
BASE = ("--label", "y", "--groups", "sex")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, words_of("measure", *arguments))


def found(*arguments: object) -> Any:
    """Its JSON."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, N)
    sex, race = rng.choice(["Female", "Male"], N), rng.choice(["B", "O", "W"], N, p=[0.4, 0.1, 0.5])
    logit = rng.normal(size=N) + 2 * y - 1 + 0.5 * (sex == "Male")
    p = np.round(1 / (1 + np.exp(-logit)), 6)
    return pd.DataFrame(
        {
            "y": y,
            "income": np.where(y == 1, ">50K", "<=50K"),
            "p": p,
            "logit": logit,
            "guess": (p >= 0.5).astype(int),
            "said": np.where(p >= 0.5, ">50K", "<=50K"),
            "sex": sex,
            "race": race,
            "w": rng.integers(0, 4, N),
            "id": np.arange(N),
        }
    )


@pytest.fixture(scope="module")
def table(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    frame.to_csv(path, index=False)
    return path


def changed(frame: pd.DataFrame, folder: Path, **columns: Any) -> Path:
    path = folder / "changed.csv"
    frame.assign(**columns).to_csv(path, index=False)
    return path


def test_predictions_are_measured_as_in_python(frame: pd.DataFrame, table: Path) -> None:
    of_file = found(table, *BASE, "--prediction", "guess")
    expected = measure(frame["y"], frame["guess"], frame["sex"]).to_dict()
    assert of_file.pop("file") == str(table)
    assert of_file == expected
    columns = frame["y"], frame["guess"]
    for name, oracle in (
        ("dpd", demographic_parity_difference),
        ("eod", equalized_odds_difference),
    ):
        value = oracle(*columns, sensitive_features=frame["sex"])
        assert of_file["metrics"][name]["value"] == pytest.approx(value, abs=1e-12)


def test_scores_bring_auc_and_calibration(frame: pd.DataFrame, table: Path) -> None:
    of_file = found(table, *BASE, "--score", "p")
    assert of_file["threshold"] == 0.5
    assert of_file["metrics"] == found(table, *BASE, "--prediction", "guess")["metrics"]
    quality = score_quality(frame["y"], frame["p"], frame["sex"], probabilities=frame["p"])
    assert of_file["scores"] == quality.to_dict()
    assert of_file["scores"]["auc"]["value"] == pytest.approx(roc_auc_score(frame["y"], frame["p"]))
    text = run(table, *BASE, "--score", "p").stdout
    for part in ("from a score of 0.5 on", "BPSN AUC", "mean p − mean y", "Female", "max − min"):
        assert part in text


def test_a_score_beside_predictions_changes_none(table: Path) -> None:
    both = found(table, *BASE, "--prediction", "guess", "--score", "logit")
    assert both["metrics"] == found(table, *BASE, "--prediction", "guess")["metrics"]
    assert both["scores"]["calibration"]["value"] is None  # logits are no probabilities
    assert any("no probabilities" in text for text in both["scores"]["warnings"])
    text = run(table, *BASE, "--prediction", "guess", "--score", "logit").stdout
    assert "mean p" not in text


def test_weights_are_repeated_rows(frame: pd.DataFrame, table: Path, tmp_path: Path) -> None:
    repeated = tmp_path / "repeated.csv"
    frame.loc[frame.index.repeat(frame["w"])].to_csv(repeated, index=False)
    weighted = found(table, *BASE, "--score", "p", "--weight", "w")
    plain = found(repeated, *BASE, "--score", "p")
    assert weighted["weighted"] is True
    for name, entry in weighted["metrics"].items():
        assert entry["value"] == plain["metrics"][name]["value"], name
    assert weighted["scores"]["auc"]["value"] == plain["scores"]["auc"]["value"]


def test_several_columns_of_groups_and_their_intersections(
    frame: pd.DataFrame, table: Path
) -> None:
    of_file = found(table, "--label", "y", "--prediction", "guess", "--groups", "sex, race")
    assert set(of_file["groups"]) == {"sex=Female", "sex=Male", "race=B", "race=O", "race=W"}
    columns = (Groups.of(frame[name], N) for name in ("sex", "race"))
    expected = measure(frame["y"], frame["guess"], cross(*columns))
    crossed = found(table, "--label", "y", "--prediction", "guess", "--groups", "sex*race")
    assert crossed["metrics"] == expected.to_dict()["metrics"]


def test_labels_and_predictions_may_be_words(table: Path) -> None:
    words = ("--label", "income", "--positive", ">50K", "--groups", "sex")
    expected = found(table, *BASE, "--prediction", "guess")["metrics"]
    for name in ("said", "guess"):  # the labels' own words, or 0 and 1
        of_file = found(table, *words, "--prediction", name)
        assert of_file["metrics"] == expected
        assert any("every other value: '<=50K' (" in text for text in of_file["warnings"])


def test_where_0_is_the_positive_label_a_0_predicts_it(table: Path) -> None:
    plain = found(table, *BASE, "--prediction", "guess")["metrics"]
    turned = found(table, *BASE, "--positive", "0", "--prediction", "guess")["metrics"]
    assert turned["acc"] == plain["acc"]
    assert turned["tpr"]["value"] == pytest.approx(1 - plain["fpr"]["value"])


def test_missing_predictions_are_counted_and_said(frame: pd.DataFrame, tmp_path: Path) -> None:
    guess = frame["guess"].astype(object)
    guess[:3] = ""
    path = changed(frame, tmp_path, guess=guess)
    of_file = found(path, *BASE, "--prediction", "guess")
    assert of_file["unanswered"] == 3
    assert "unanswered" in run(path, *BASE, "--prediction", "guess").stdout
    score = frame["p"].astype(object)
    score[:3] = ""
    path = changed(frame, tmp_path, p=score)
    of_file = found(path, *BASE, "--score", "p")
    assert (of_file["unanswered"], of_file["scores"]["missing"]) == (3, 3)


@pytest.mark.parametrize("level", ["labels", "0.25"])
@pytest.mark.parametrize("score", ["p", "logit"])
def test_a_level_sets_the_threshold(
    frame: pd.DataFrame, table: Path, level: str, score: str
) -> None:
    of_file = found(table, *BASE, "--score", score, "--threshold", f"level: {level}")
    rate = frame["y"].mean() if level == "labels" else 0.25
    assert of_file["metrics"]["selection_rate"]["value"] == pytest.approx(rate, abs=1 / N)
    assert of_file["threshold"] in frame[score].to_list()


def test_a_number_sets_the_threshold(frame: pd.DataFrame, table: Path) -> None:
    of_file = found(table, *BASE, "--score", "logit", "--threshold", "-0.25")
    rate = (frame["logit"] >= -0.25).mean()
    assert of_file["metrics"]["selection_rate"]["value"] == pytest.approx(rate)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "jsonl.gz", "parquet"])
def test_other_formats_hold_the_same(
    frame: pd.DataFrame, table: Path, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / f"table.{kind}"
    text = frame.to_json(orient="records", lines=True)
    if kind == "tsv":
        frame.to_csv(path, sep="\t", index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        path.write_text(text)
    else:
        path.write_bytes(gzip.compress(text.encode()))
    first, second = (found(file, *BASE, "--score", "p") for file in (table, path))
    assert (first.pop("file"), second.pop("file")) == (str(table), str(path))
    assert first == second


def test_how_a_csv_is_written_can_be_said(frame: pd.DataFrame, table: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    named = frame.assign(sex=frame["sex"].replace("Female", "Fémale"))
    named.to_csv(path, index=False, sep=";", decimal=",", encoding="cp1252")
    written = ("--format", "csv", "--separator", ";", "--decimal", ",", "--encoding", "cp1252")
    of_file = found(path, *BASE, "--score", "p", *written)
    assert of_file["metrics"] == found(table, *BASE, "--score", "p")["metrics"]
    assert set(of_file["groups"]) == {"Fémale", "Male"}
    refusal(["measure", path, *BASE, "--score", "p"], ConfigError, "csv", where=path)


def test_a_column_of_lists(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    lists = [[sex, race] for sex, race in zip(frame["sex"], frame["race"], strict=True)]
    frame.assign(who=lists).to_json(path, orient="records", lines=True)
    of_file = found(path, "--label", "y", "--prediction", "guess", "--groups", "who")
    expected = measure(frame["y"], frame["guess"], lists)
    assert of_file["metrics"] == expected.to_dict()["metrics"]


def test_differences_from_a_chosen_group(frame: pd.DataFrame, table: Path) -> None:
    options = (*BASE, "--prediction", "guess", "--against", "Male")
    of_file = found(table, *options)["against"]
    columns = frame["y"], frame["guess"], frame["sex"]
    assert of_file == measure(*columns, against="Male").to_dict()["against"]
    assert "minus Male" in run(table, *options).stdout
    refusal(["measure", table, *options[:-1], "male"], MeasurementError, where="against")


def test_what_is_odd_about_groups_is_said(frame: pd.DataFrame, tmp_path: Path) -> None:
    sex = frame["sex"].to_list()
    path = changed(frame, tmp_path, sex=["NA", "female", *sex[2:]])
    said = [text for text in found(path, *BASE, "--score", "p")["warnings"] if "--groups" in text]
    assert any("1 of 240 rows" in text for text in said)
    assert any("'female' (1)" in text for text in said)
    assert not any("rename" in text for text in said)  # a key of data descriptions


def test_settings_are_those_of_measure(frame: pd.DataFrame, table: Path) -> None:
    options = ("--reference", "one_vs_rest", "--confidence", "0.9", "--min-group-size", "30")
    of_file = found(
        table,
        *("--label", "y", "--prediction", "guess", "--groups", "race"),
        *(*options, "--exclude", "W", "--seed", "3"),
    )
    expected = measure(
        *(frame["y"], frame["guess"], frame["race"]),
        reference="one_vs_rest",
        confidence=0.9,
        min_group_size=30,
        exclude="W",
        seed=3,
    )
    assert of_file["metrics"] == expected.to_dict()["metrics"]
    quiet = run(table, *BASE, "--prediction", "guess", "--min-group-size", "200", "--quiet")
    assert "warning" not in quiet.output


REFUSED: list[tuple[str, tuple[str, ...], type[Exception], dict[str, Any]]] = [
    ("no label", ("--prediction", "guess", "--groups", "sex"), ConfigError, {"fix": "--label"}),
    ("no groups", ("--label", "y", "--prediction", "guess"), ConfigError, {"fix": "--groups"}),
    ("no prediction", BASE, ConfigError, {"fix": "which column"}),
    ("unknown column", (*BASE, "--prediction", "gues"), DataError, {"fix": "'guess'"}),
    (
        "unknown group column",
        ("--label", "y", "--prediction", "guess", "--groups", "sexx"),
        DataError,
        {"fix": "'sex'"},
    ),
    ("unknown crossed", (*BASE[:2], "--prediction", "guess", "--groups", "sex*rac"), DataError, {}),
    (
        "words without --positive",
        ("--label", "income", "--prediction", "guess", "--groups", "sex"),
        DataError,
        {"fix": "--positive"},
    ),
    (
        "a label with three values",
        ("--label", "race", "--prediction", "guess", "--groups", "sex"),
        DataError,
        {"fix": "--positive"},
    ),
    (
        "nobody is positive",
        ("--label", "income", "--positive", "rich", "--prediction", "said", "--groups", "sex"),
        DataError,
        {"fix": "--positive"},
    ),
    ("a probability as prediction", (*BASE, "--prediction", "p"), DataError, {"fix": "--score"}),
    ("other words", (*BASE, "--prediction", "race"), DataError, {"where": "'race'"}),
    ("words as score", (*BASE, "--score", "sex"), DataError, {"where": "'sex'"}),
    ("words as weight", (*BASE, "--score", "p", "--weight", "sex"), DataError, {}),
    ("logits without threshold", (*BASE, "--score", "logit"), ConfigError, {"fix": "--threshold"}),
    (
        "no threshold",
        (*BASE, "--score", "p", "--threshold", "level: base"),
        ConfigError,
        {"where": "--threshold"},
    ),
    ("no rate", (*BASE, "--score", "p", "--threshold", "level: 2"), ConfigError, {}),
    ("no number", (*BASE, "--score", "p", "--threshold", "nan"), ConfigError, {}),
    ("a per cent", (*BASE, "--score", "p", "--threshold", "50"), ConfigError, {"got": 50.0}),
    (
        "two predictions",
        (*BASE, "--score", "p", "--prediction", "guess", "--threshold", "0.4"),
        ConfigError,
        {},
    ),
    ("many groups", (*BASE[:2], "--score", "p", "--groups", "id"), DataError, {"fix": "groups"}),
    (
        "an unknown group is excluded",
        (*BASE, "--score", "p", "--exclude", "x"),
        MeasurementError,
        {"where": "exclude"},
    ),
]


@pytest.mark.parametrize(
    ("arguments", "kind", "fields"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refusals(table: Path, arguments: Any, kind: Any, fields: dict[str, Any]) -> None:
    refusal(["measure", table, *arguments], kind, **fields)


def test_more_refusals(frame: pd.DataFrame, tmp_path: Path) -> None:
    options = (*BASE, "--prediction", "guess")
    refusal(["measure", tmp_path / "no.csv", *options], DataError, where=tmp_path / "no.csv")
    (tmp_path / "samples_task.jsonl").touch()
    refusal(["measure", tmp_path], DataError, where=tmp_path, allowed=["samples_task.jsonl"])
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    refusal(["measure", empty, *options], DataError, where=empty)
    head = tmp_path / "head.csv"
    head.write_text("y,guess,sex\n")
    refusal(["measure", head, *options], DataError, where=head)
    ones = changed(frame, tmp_path, y=1)
    refusal(["measure", ones, *options], DataError, "1", where="'y'")
    ones_and_twos = changed(frame, tmp_path, y=frame["y"] + 1)  # what would a 1 predict?
    refusal(["measure", ones_and_twos, *options, "--positive", "2"], DataError, where="'guess'")
    gap = frame["y"].astype(object)
    gap[7] = ""
    unlabelled = changed(frame, tmp_path, y=gap)
    refusal(["measure", unlabelled, *options], DataError, "row 7", where="'y'")
    weights = changed(frame, tmp_path, w=frame["w"] - 1)
    negative = ["measure", weights, *options, "--weight", "w"]
    refusal(negative, DataError, "'-1'", where="'w'")
    none = changed(frame, tmp_path, w=0)
    refusal(["measure", none, *options, "--weight", "w"], DataError, where="'w'")


@pytest.mark.parametrize(
    ("name", "content", "option"),
    [
        ("t.json", b"{}", "--format csv"),
        ("t.csv", b'y,p,g\n1,1,"a\n0,1,b\n', "--quotes none"),
        ("t.csv", "y,p,g\n1,1,\u00e9\n".encode("latin-1"), "--encoding"),
        ("t.csv", "y,p,g\n1,1,a\n".encode("utf-16-le"), "--encoding utf-16-le"),
    ],
)
def test_how_a_file_is_read_is_advised_as_options(
    name: str, content: bytes, option: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    kind = ConfigError if name == "t.json" else DataError
    arguments = ["--label", "y", "--prediction", "p", "--groups", "g"]
    assert option in str(refusal(["measure", path, *arguments], kind))


def test_intersections_of_one_name_are_two_groups(frame: pd.DataFrame, tmp_path: Path) -> None:
    other = np.roll(frame["sex"].to_numpy(), 1)
    path = changed(frame, tmp_path, now=frame["sex"], then=other)
    options = ("--label", "y", "--prediction", "guess", "--groups")
    groups = found(path, *options, "now*race,then*race")["groups"]
    for entry in ("now*race", "then*race"):
        alone = found(path, *options, entry)["groups"]
        assert {name: groups[f"{entry}={name}"] for name in alone} == alone
    assert len(groups) == 2 * len(alone)


def test_a_column_that_stands_twice(frame: pd.DataFrame, tmp_path: Path) -> None:
    options = (*BASE, "--prediction", "guess")
    once = found(changed(frame, tmp_path), *options)
    twice = pd.concat([frame, frame[["y", "guess", "sex"]]], axis=1)
    twice.to_csv(tmp_path / "twice.csv", index=False)
    assert found(tmp_path / "twice.csv", *options)["metrics"] == once["metrics"]


def samples(rows: int = 40) -> list[dict[str, Any]]:
    """As stock lm-eval writes them, of a task of two choices."""
    rng = np.random.default_rng(1)
    made = []
    for number in range(rows):
        label, gap = int(rng.integers(0, 2)), float(rng.normal())
        groups = [str(rng.choice(["a", "b", "other"]))]
        item = [int(gap > 0), label, [name for name in groups if name != "other"]]
        doc = {"label": label, "groups": groups, "excluded": [n for n in groups if n == "other"]}
        made.append(
            {
                "doc_id": number,
                "doc": doc,
                "filtered_resps": [[-gap, False], [0.0, True]],
                "dpd": item,
                "metrics": ["dpd"],
            }
        )
    return made


def test_samples_need_no_options(tmp_path: Path) -> None:
    path = tmp_path / "samples_task.jsonl"
    made = samples()
    path.write_text("".join(json.dumps(sample) + "\n" for sample in made))
    of_file = found(path)
    predicted, labels, _ = zip(*(sample["dpd"] for sample in made), strict=True)
    groups = [sample["doc"]["groups"][0] for sample in made]
    expected = measure(labels, predicted, groups, exclude="other").to_dict()
    assert of_file["metrics"] == expected["metrics"]
    gaps = [-sample["filtered_resps"][0][0] for sample in made]
    assert of_file["scores"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, gaps))
    assert of_file["scores"]["calibration"]["value"] is not None
    half = found(path, "--threshold", "0.5")
    assert (half["threshold"], half["metrics"]) == (0.5, of_file["metrics"])
    strict = found(path, "--threshold", "0.9")["metrics"]["selection_rate"]["value"]
    assert strict == pytest.approx(np.mean(np.array(gaps) >= np.log(9)))
    refusal(["measure", path, "--label", "y"], ConfigError, where=path, got=["--label"])


def test_a_document_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples_task.jsonl"
    made = samples()
    for again, kind in (({}, ConfigError), ({"filter": "strict"}, MeasurementError)):
        path.write_text("".join(json.dumps(sample) + "\n" for sample in [*made, made[3] | again]))
        refusal(["measure", path], kind, *([] if again else ["line 41", "line 4"]))


def test_samples_of_another_task_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples_other.jsonl"
    sample = {"doc_id": 0, "doc": {}, "filtered_resps": [], "metrics": ["acc"], "acc": 1}
    path.write_text(json.dumps(sample) + "\n")
    refusal(["measure", path], MeasurementError, got=["acc"])


def test_no_model_library_is_loaded(table: Path) -> None:
    code = (
        "import sys; from mergekit_fair.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print([n for n in ('torch', 'transformers', 'lm_eval', 'datasets') if n in sys.modules])"
    )
    arguments = ["measure", str(table), *BASE, "--score", "p"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_example_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    text = (root / "docs" / "measurement.md").read_text(encoding="utf-8")
    begin = text.index("mergekit-fair measure ")
    command, shown = text[begin:].split("\n```\n\n```text\n", 1)
    printed = run(*shlex.split(command)[2:]).stdout.splitlines()
    lines = shown.split("\n```\n", 1)[0].splitlines()
    assert [line for line in lines if line != "…" and line not in printed] == []
