"""`compare` of folders: the model that is named, each row once, and what qualifies a gap."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from evaluations import evaluation
from refusals import raises, refusal

from mergekit_fair.cli import main
from mergekit_fair.errors import ConfigError, MeasurementError
from mergekit_fair.evaluation.benchmarks.benchmark_items import benchmark_rows
from mergekit_fair.evaluation.compare_runs import compare_folders
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.evaluation.sample_files import read_samples
from mergekit_fair.fairness import MetricSettings

N = 60
TIMES = ("2026-01-31T12-00-00.000001", "2026-01-31T13-00-00")
Sample = dict[str, Any]


def digest(doc: dict[str, Any]) -> str:
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


def sample(row: int, prediction: int | None) -> Sample:
    groups = [("a", "b")[row % 2]]
    doc = {"id": row, "text": f"naïve {row}", "label": row // 2 % 2, "groups": groups}
    return {
        "doc_id": row,
        "doc": {**doc, "excluded": []},
        "filter": "none",
        "doc_hash": digest({**doc, "excluded": []}),
        "filtered_resps": [[-1.0, True], [-2.0, False]],
        "dpd": [prediction, doc["label"], groups],
        "logit_gap": None if prediction is None else float(2 * prediction - 1),
    }


def write(
    folder: Path,
    predict: Callable[[int], int | None] = lambda row: row // 3 % 2,
    change: Callable[[list[Sample]], Any] = lambda _: None,
    name: str = "samples_t.jsonl",
) -> Path:
    """A folder with the samples of a model; `change` edits them in place."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [sample(row, predict(row)) for row in range(N)]
    change(samples)
    (folder / name).write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples))
    return folder


def compared(first: Path, *others: Path) -> dict[str, Any]:
    return compare_folders(first, others, MetricSettings())["t"]


def test_a_folder_of_several_models(tmp_path: Path) -> None:
    """lm-eval writes every model into a folder of its own below --output_path."""
    one = write(tmp_path / "out" / "one", name=f"samples_t_{TIMES[0]}.jsonl")
    alone = compared(write(tmp_path / "first"), tmp_path / "out")
    assert list(alone["models"]) == ["out"]
    two = write(tmp_path / "out" / "two", name=f"samples_t_{TIMES[1]}.jsonl")
    refusal(
        ["compare", tmp_path / "first", tmp_path / "out"],
        ConfigError,
        where=tmp_path / "out",
        allowed=[one, two],
    )
    assert list(compared(tmp_path / "first", one, two)["models"]) == ["one", "two"]


def test_several_runs_of_one_model(tmp_path: Path) -> None:
    first = write(tmp_path / "first")
    runs = tmp_path / "runs"
    for time, answer in zip(TIMES, (0, 1), strict=True):
        write(runs, lambda _, a=answer: a, name=f"samples_t_{time}.jsonl")  # type: ignore[misc]
    found = compared(first, runs)
    assert found["marks"]["runs"]["selection_rate"] == 1.0
    assert any(TIMES[1] in text and "the latest of 2" in text for text in found["notes"])
    earlier = compared(first, runs / f"samples_t_{TIMES[0]}.jsonl")
    (name,) = earlier["models"]
    assert earlier["marks"][name]["selection_rate"] == 0.0
    assert any("not the latest of 2" in text for text in earlier["notes"])
    write(runs)  # by `mergekit-fair eval`, before or after
    with raises(ConfigError, where=runs, got=sorted(path.name for path in runs.iterdir())):
        compared(first, runs)


@pytest.mark.parametrize("time", [TIMES[0], ""], ids=["lm_eval", "eval"])
def test_precisions_that_differ(tmp_path: Path, time: str) -> None:
    """Of the same run; nothing is said where all are alike, or where nobody knows."""
    end = f"_{time}" if time else ""
    folders = [write(tmp_path / name, name=f"samples_t{end}.jsonl") for name in ("a", "b")]
    files = [folder if folder.is_file() else folder / f"samples_t{end}.jsonl" for folder in folders]
    for dtypes, is_said in ((("float32", "bfloat16"), True), (("float32",) * 2, False)):
        for file, dtype in zip(files, dtypes, strict=True):
            beside = file.with_name(f"results{end}.json" if time else "lm_eval.json")
            beside.write_text(json.dumps({"config": {"model_dtype": f"torch.{dtype}"}}))
        notes = compared(*folders)["notes"]
        assert any("(a float32, b bfloat16)" in text for text in notes) == is_said, notes
    beside.write_text("{")
    assert not any("precisions" in text for text in compared(*folders)["notes"])


def test_the_same_folder_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "one")
    (tmp_path / "link").symlink_to(folder)
    for other in (folder, tmp_path / "x" / ".." / "one", tmp_path / "link"):
        with raises(ConfigError, where="compare"):
            compared(folder, other)


def test_names_and_order_change_nothing(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    others = [write(tmp_path / name, lambda row: int(row % 5 < 2)) for name in ("b", "0", "zz")]
    found = [list(compared(first, other)["models"].values()) for other in others]
    assert found[0] == found[1] == found[2]
    back = compared(others[0], first)["models"]["a"]
    for metric, entry in found[0][0].items():
        assert (back[metric]["low"], back[metric]["high"]) == (-entry["high"], -entry["low"])


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda samples: samples.pop(), MeasurementError),
        (lambda samples: samples.append(samples[3]), ConfigError),
        (lambda samples: samples[3].update(doc_id=4), ConfigError),
        (lambda samples: samples[3]["doc"].update(label=0), ConfigError),
        (lambda samples: samples[3]["doc"]["groups"].append("c"), ConfigError),
        (lambda samples: samples[3].update(dpd=[1, 0, ["b"]]), MeasurementError),
        (lambda samples: samples[3].update(dpd=[1, 1, ["a"]]), MeasurementError),
        (lambda samples: samples[3].update(dpd=[1, 1, ["b", "c"]]), MeasurementError),
        (lambda samples: samples[3].update(dpd=[1, "1", ["b"]]), MeasurementError),
        (lambda samples: samples[3].update(dpd=[0.7, 1, ["b"]]), MeasurementError),
        (lambda samples: samples[3].pop("doc"), ConfigError),
        (lambda samples: samples[3].update(doc=["x"]), ConfigError),
        (lambda samples: samples[3].pop("doc_id"), ConfigError),
        (
            lambda samples: samples.extend([{**s, "filter": "other"} for s in list(samples)]),
            MeasurementError,
        ),
    ],
)
def test_files_that_were_changed_or_are_of_other_rows(
    change: Callable[[list[Sample]], Any], kind: type, tmp_path: Path
) -> None:
    first, other = write(tmp_path / "first"), write(tmp_path / "other", change=change)
    compared(first, write(tmp_path / "same"))
    for pair in ((first, other), (other, first)):
        refusal(["compare", *pair], kind)


@pytest.mark.parametrize("content", [b"[1]\n", b"\xff\xfe\n", b"\n", b"{}\n", b'{"doc": 3}\n'])
def test_files_that_are_no_samples(content: bytes, tmp_path: Path) -> None:
    first, other = write(tmp_path / "first"), tmp_path / "other"
    other.mkdir()
    (other / "samples_t.jsonl").write_bytes(content)
    refusal(["compare", first, other], ConfigError, where=other)


def test_a_text_with_line_ends_of_its_own(tmp_path: Path) -> None:
    def change(samples: list[Sample]) -> None:
        doc = samples[0]["doc"]
        doc["text"] = "one\u2028two\u0085three\x0c"
        samples[0]["doc_hash"] = digest(doc)

    folder = write(tmp_path / "one", change=change)
    assert len(read_samples(folder / "samples_t.jsonl")) == N


def test_marks_of_every_model(tmp_path: Path) -> None:
    first = write(tmp_path / "first")
    always = write(tmp_path / "always", lambda _: 1)
    near = write(tmp_path / "near", lambda row: 1 if row < 2 else row // 3 % 2)
    found = compared(first, always, near)["marks"]
    shown = {name: (mark["degenerate"], mark["saturated"]) for name, mark in found.items()}
    assert shown == {"first": (False, False), "always": (True, True), "near": (False, False)}
    assert found["first"]["selection_rate"] == 0.5
    printed = CliRunner().invoke(main, ["compare", str(first), str(always)]).stdout
    assert "degenerate" in printed
    assert "saturated" in printed


def test_the_groups_of_every_gap_are_named_and_small_ones_said_once(tmp_path: Path) -> None:
    folders = [write(tmp_path / "first"), write(tmp_path / "other", lambda row: row % 5 % 2)]
    found = compared(*folders)
    for mark in found["marks"].values():
        assert set(mark["deciding"]["dpd"]) == {"rate", "highest", "lowest"}
    command = ["compare", *map(str, folders)]
    printed = CliRunner().invoke(main, [*command, "--min-group-size", "1"]).stdout
    assert " a − b" in printed or " b − a" in printed
    assert " a − a" not in printed  # nobody makes a gap of 0
    few = CliRunner().invoke(main, [*command, "--min-group-size", "1000"]).stdout
    assert few.count("too few rows to decide a gap (min_group_size 1000)") == 1


def test_what_eval_said_of_a_model_is_repeated(tmp_path: Path) -> None:
    first, other = write(tmp_path / "first"), write(tmp_path / "other")
    cut = {"n": 6, "share": 0.1}
    truncated = {"overall": cut, "groups": {"a": {"n": 6, "share": 0.2}, "b": {"n": 0, "share": 0}}}
    said = {
        "first": {"max_length": 64},
        "other": {
            "max_length": 128,
            "threshold": 0.3,
            "truncated": json.loads(json.dumps(truncated).replace(": 0}", ": 0.0}")),
            "trained_rows": 7,
            "used_by_selection": {"task": "t", "split": "validation", "rule": "maximize acc"},
        },
    }
    for folder in (first, other):
        content = {"schema_version": 2, **evaluation({"acc": 0.5}, **said[folder.name])}
        (folder / "t.json").write_text(json.dumps(content))
    notes = compared(first, other)["notes"]
    for words in (
        "maximize acc",
        "7 of these rows",
        "were cut",
        "first 64, other 128",
        "0.5, other 0.3",
    ):
        assert sum(words in text for text in notes) == 1
    result = CliRunner().invoke(main, ["compare", str(first), str(other)])
    assert all(f"warning: {text}" in result.stdout for text in notes)
    as_json = CliRunner().invoke(main, ["compare", str(first), str(other), "--json"])
    assert json.loads(as_json.stdout)["t"]["notes"] == notes


def test_other_prompts_are_said(tmp_path: Path) -> None:
    """The same documents, asked with another chat template or system instruction."""

    def asked(words: str) -> Callable[[list[Sample]], Any]:
        return lambda samples: [
            each.update(prompt_hash=words if row else "same") for row, each in enumerate(samples)
        ]

    first, alike, other = (
        write(tmp_path / name, change=asked(words))
        for name, words in {"first": "plain", "alike": "plain", "other": "in a template"}.items()
    )
    unknown = write(tmp_path / "unknown")
    notes = compared(first, alike, other, unknown)["notes"]
    assert len(notes) == 1
    assert "59 of 60 prompts of other are others than of first" in notes[0]
    assert (
        f"warning: {notes[0]}"
        in CliRunner().invoke(main, ["compare", *map(str, (first, alike, other, unknown))]).stdout
    )


def test_a_document_counts_once() -> None:
    samples = [{**sample(row, 1), "filter": name} for name in ("a", "b") for row in range(4)]
    with raises(MeasurementError, where="t", got=["a", "b"]):
        Predictions.of_samples("t", samples)
    preferences = [{**each, "preference_gap": (1, "kind")} for each in samples]
    with raises(MeasurementError, where="t", got=["a", "b"]):
        benchmark_rows("t", preferences)
    once = benchmark_rows("t", preferences[:4])
    assert once is not None
    assert len(once) == 4
