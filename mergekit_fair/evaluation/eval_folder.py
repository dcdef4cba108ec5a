"""The folder of `eval`: one evaluation's files, written together, and its rows as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import in_json, in_spreadsheet
from mergekit_fair.evaluation.predictions import GAP
from mergekit_fair.files import is_file_name, write_together

RESULTS = "lm_eval.json"
_SAMPLES, _ROWS = "samples_{}.jsonl", "rows_{}.csv"
_COLUMNS = ("id", "split", "label", "groups", "prediction", GAP, "weight")


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
    (0, 1, or empty without an answer), logit_gap (logit₁ − logit₀ of a classifier), weight. A text
    that a spreadsheet would run begins with an apostrophe.

    Args:
        samples: of a task that measures fairness.
        split: that they are of.

    >>> doc = {"id": 7, "label": 1, "groups": ["=a"], "split": "report"}
    >>> print(rows_table([{"doc_id": 0, "doc": doc, "dpd": (0, 1, ["=a"])}], "report"), end="")
    id,split,label,groups,prediction,logit_gap,weight
    7,report,1,"[""=a""]",0,,
    """
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(_COLUMNS)
    for sample in samples:
        doc, (prediction, label, groups) = sample["doc"], sample["dpd"]
        gap = sample.get(GAP)
        cells = (
            doc.get("id", sample["doc_id"]),
            doc.get("split", split),
            label,
            json.dumps(list(doc.get("groups", groups)), ensure_ascii=False),
            "" if prediction is None else prediction,
            "" if gap is None else gap,
            doc.get("weight", ""),
        )
        table.writerow([in_spreadsheet(cell) for cell in cells])
    return buffer.getvalue()


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
