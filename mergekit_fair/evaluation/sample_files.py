"""Files of lm-eval's samples: which one is meant, and whether it is what was written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError
from mergekit_fair.files import text_of
from mergekit_fair.schema import parse_json

_PREFIX = "samples_"
# lm-eval's names end with the time.
_TIME = re.compile(r"_(\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(\.\d+)?)$")
_AGAIN = "the file is damaged, half written or edited: evaluate again"


def sample_files(folder: Path) -> dict[str, Path]:
    """Task → its file of samples; of several runs of one model, the latest.

    Args:
        folder: of one model; or the file of one task.

    Raises:
        ConfigError: there are none, those of several models, or some with a time and some without.
    """
    paths = [folder] if folder.is_file() else sorted(folder.rglob(f"{_PREFIX}*.jsonl"))
    if not paths:
        raise ConfigError(
            "has no samples (samples_TASK.jsonl)",
            where=folder,
            fix="give the folder of `mergekit-fair eval`, or of `lm_eval run --log_samples`",
        )
    parents = sorted({path.parent for path in paths})
    if len(parents) > 1:
        raise ConfigError(
            "holds evaluations of several models, or several of one",
            where=folder,
            got=f"{len(parents)} folders with samples",
            allowed=parents[:20],
            fix="name one of them",
        )
    files = {}
    for task, runs in _by_task(paths).items():
        timed = [path for path in runs if _TIME.search(path.stem)]
        if timed and len(timed) < len(runs):
            raise ConfigError(
                "holds samples of lm_eval and of `mergekit-fair eval`",
                where=folder,
                got=[path.name for path in runs],
                fix="name one of the files",
            )
        files[task] = max(runs, key=lambda path: path.name)
    return files


def earlier_runs(path: Path) -> str | None:
    """That a file of samples is the latest of several; None if there is only one."""
    paths = [path, *path.parent.glob(f"{_PREFIX}*.jsonl")]
    runs = {each.name for each in _by_task(paths)[task_of(path)]}
    if len(runs) == 1:
        return None
    which = "the latest" if path.name == max(runs) else "not the latest"
    return f"{path.name} is {which} of {len(runs)} runs in its folder"


def precision_of(path: Path) -> str | None:
    """The dtype that a model computed its answers in, such as `bfloat16`; None where nothing says.

    Args:
        path: the samples; results of the same run lie beside them.
    """
    time = _TIME.search(path.stem)
    beside = path.with_name(f"results{time.group()}.json" if time else "lm_eval.json")
    try:
        said = parse_json(text_of(beside))["config"]["model_dtype"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return said.removeprefix("torch.") if isinstance(said, str) else None


def _by_task(paths: list[Path]) -> dict[str, list[Path]]:
    runs: dict[str, list[Path]] = {}
    for path in paths:
        runs.setdefault(task_of(path), []).append(path)
    return runs


def task_of(path: Path) -> str:
    """`samples_TASK.jsonl`, or lm-eval's `samples_TASK_2026-01-31T12-00-00.000000.jsonl`.

    >>> task_of(Path("samples_own_2026Test.jsonl"))
    'own_2026Test'
    >>> task_of(Path("samples_own_2026-01-31T12-00-00.000000.jsonl"))
    'own'
    """
    return _TIME.sub("", path.stem.removeprefix(_PREFIX))


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of samples, each document once and as it was written.

    Raises:
        ConfigError: not JSON lines of samples; a document twice; one that is not what its digest
            says; samples of several filters.
    """
    samples = list(_lines(path))
    require_each_once(samples, path)
    for line, sample in enumerate(samples, start=1):
        said = sample.get("doc_hash")
        if said is not None and said != _digest(sample["doc"]):
            raise ConfigError(
                f"the document of line {line} is not the one that was evaluated",
                where=path,
                got=sample["doc_id"],
                fix=_AGAIN,
            )
    return samples


def require_each_once(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """No document has two answers, which would count twice.

    Raises:
        ConfigError: names the two lines.
    """
    numbers: dict[tuple[Any, Any], int] = {}
    for line, sample in enumerate(samples, start=1):
        first = numbers.setdefault((sample["doc_id"], sample.get("filter")), line)
        if first != line:
            raise ConfigError(
                f"line {line} is of the document of line {first}",
                where=path,
                got=sample["doc_id"],
                fix=_AGAIN,
            )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=path, fix=_AGAIN) from error
    # by line ends alone: JSON may hold other characters that end a line
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            sample = parse_json(line)
        except ValueError as error:
            raise ConfigError(
                f"line {number} is not JSON ({error})", where=path, fix=_AGAIN
            ) from error
        known = isinstance(sample, Mapping) and isinstance(sample.get("doc"), Mapping)
        if not known or not isinstance(sample.get("doc_id"), int | str):
            raise ConfigError(
                f"line {number} is no sample of lm-eval", where=path, allowed="doc, doc_id, …"
            )
        yield dict(sample)


def _digest(doc: Mapping[str, Any]) -> str:
    """As lm-eval writes it, of the document alone."""
    return hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode()).hexdigest()
