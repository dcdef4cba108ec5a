"""The folder of `eval`: one evaluation's files, written together, and its rows as a table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import in_json, in_spreadsheet
from mergekit_fair.evaluation.multi_predictions import ITEM
from mergekit_fair.evaluation.predictions import GAP
from mergekit_fair.files import is_file_name, write_together

RESULTS = "lm_eval.json"
_SAMPLES, _ROWS = "samples_{}.jsonl", "rows_{}.csv"


def require_free(out: Path, *, overwrite: bool) -> None:
    """Check, before anything is run, that no evaluation lies in a folder, or may be replaced.

    Raises:
        ConfigError: one lies there.
    """
    if not overwrite and (found := sorted(_of_evaluation(out))):
        samples = next((path for path in found if path.suffix == ".jsonl"), None)
        again = f"; `mergekit-fair measure {samples}` reads it with other settings"
        raise ConfigError(
            "holds an evaluation already",
            where=out,
            got=[path.name for path in found[:4]],
            fix="choose another folder, or pass --overwrite, which replaces it"
            + (again if samples else ""),
        )


def require_file_name(task: str) -> None:
    """Check that a task's name can be the name of its files.

    Raises:
        ConfigError: it cannot.
    """
    if not is_file_name(task):
        raise ConfigError(
            "cannot be the name of a file, which its results have",
            where="name of the data set",
            got=task,
            fix="give it a name of letters and digits",
        )


def write_evaluation(out: Path, files: Mapping[str, str]) -> None:
    """Write all files of an evaluation, then take away those of the one that was there before.

    Args:
        out: an existing folder.
        files: name → content.

    Raises:
        OSError: the system's; what was there is still there.
    """
    old = set(_of_evaluation(out))
    write_together({out / name: text for name, text in files.items()})
    for path in old - {out / name for name in files}:
        path.unlink(missing_ok=True)


def samples_name(task: str) -> str:
    """Of the file of a task's samples."""
    return _SAMPLES.format(task)


def rows_name(task: str) -> str:
    """Of the table of a task's rows."""
    return _ROWS.format(task)


def rows_table(samples: Sequence[Mapping[str, Any]], split: str) -> str:
    """A csv of the rows that were measured; `mergekit-fair measure` reads it.

    Columns: id (row number in the source), split, label (0 or 1), groups (a JSON list), prediction
    (0, 1, or empty without an answer), logit_gap (logit₁ − logit₀ of a classifier), weight. Label
    and prediction of classes are names, and there is a log_prob.NAME of each in place of the gap;
    of labels there are label.NAME, prediction.NAME and log_prob.NAME. A text that a spreadsheet
    would run begins with an apostrophe.

    Args:
        samples: of a task that measures fairness.
        split: that they are of.

    >>> doc = {"id": 7, "label": 1, "groups": ["=a"], "split": "report"}
    >>> print(rows_table([{"doc_id": 0, "doc": doc, "dpd": (0, 1, ["=a"])}], "report"), end="")
    id,split,label,groups,prediction,logit_gap,weight
    7,report,1,"[""=a""]",0,,
    >>> sample = {"doc_id": 0, "doc": {**doc, "classes": ["no", "maybe"]}, "filtered_resps": []}
    >>> sample["macro_dpd"] = (0, 1, ["=a"], ["no", "maybe"])
    >>> print(rows_table([sample], "report"), end="")
    id,split,label,groups,prediction,weight
    7,report,maybe,"[""=a""]",no,
    """
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    columns = _multi_columns if ITEM in samples[0] else _binary_columns
    for row, sample in enumerate(samples):
        doc, (labels, groups, answers) = sample["doc"], columns(sample)
        cells = {
            "id": doc.get("id", sample["doc_id"]),
            "split": doc.get("split", split),
            **labels,
            "groups": json.dumps(list(doc.get("groups", groups)), ensure_ascii=False),
            **answers,
            "weight": doc.get("weight", ""),
        }
        if row == 0:
            table.writerow([in_spreadsheet(name) for name in cells])
        table.writerow(["" if cell is None else in_spreadsheet(cell) for cell in cells.values()])
    return buffer.getvalue()


_Columns = tuple[dict[str, Any], Sequence[str], dict[str, Any]]  # of labels, groups, of answers


def _binary_columns(sample: Mapping[str, Any]) -> _Columns:
    prediction, label, groups = sample["dpd"]
    return {"label": label}, groups, {"prediction": prediction, GAP: sample.get(GAP)}


def _multi_columns(sample: Mapping[str, Any]) -> _Columns:
    prediction, label, groups, names = sample[ITEM]
    found = [float(answer[0]) for answer in sample["filtered_resps"]]
    scores: dict[str, Any] = {}
    if len(found) == len(names):  # a task with a Python function of its own may ask otherwise
        known = [value if math.isfinite(value) else None for value in found]
        scores = {f"log_prob.{name}": value for name, value in zip(names, known, strict=True)}
    if isinstance(label, int):
        said = None if prediction is None else names[prediction]
        return {"label": names[label]}, groups, {"prediction": said, **scores}
    told = prediction or [None] * len(names)
    labels = {f"label.{name}": has for name, has in zip(names, label, strict=True)}
    predicted = {f"prediction.{name}": has for name, has in zip(names, told, strict=True)}
    return labels, groups, {**predicted, **scores}


def results_text(content: Mapping[str, Any]) -> str:
    """lm-eval's own results as a file."""
    return in_json(content, indent=2, default=str) + "\n"


def _of_evaluation(out: Path) -> list[Path]:
    """The files of the evaluation in a folder, by its files of samples; other files are not."""
    head, tail = _SAMPLES.split("{}")
    found = [path for path in (out / RESULTS,) if path.is_file()]
    for samples in out.glob(f"{head}*{tail}"):
        task = samples.name.removeprefix(head).removesuffix(tail)
        beside = (out / f"{task}.json", out / rows_name(task))
        found += [samples, *(path for path in beside if path.is_file())]
    return found
