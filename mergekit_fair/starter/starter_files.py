"""data.yml, train.yml and sweep.yml for a table: commented, and checked on its rows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mergekit_fair.data import Rows, load_rows, load_spec
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE
from mergekit_fair.files import made_folder, require_no_other, write_together
from mergekit_fair.schema import dump_yaml

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SPLITS = {"train": 0.6, "validation": 0.2, "report": 0.2}


@dataclass(frozen=True)
class TableAnswers:
    """What is known of a table.

    Attributes:
        file: its path.
        name: of the data set.
        text: a column, or a template with columns in braces; or `image`, a column of files.
        label: its column.
        positive: the values that mean 1; or `at_least`, a number from which on it is 1.
        groups: columns; of several, their intersections.
        split: a column of train, validation and report; None deals the rows.
        model: a folder, a name on the Hub or a package's.
    """

    file: Path
    name: str
    label: str
    groups: tuple[str, ...]
    text: str | None = None
    image: str | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    at_least: float | None = None
    split: str | None = None
    model: str = MODEL

    def data(self, folder: Path | None = None) -> dict[str, Any]:
        """The data description; with paths from a folder, if one is given."""
        table = self.file.resolve()
        source = str(table) if folder is None else os.path.relpath(table, folder.resolve())
        block: dict[str, Any] = {"name": self.name, "source": source}
        if self.image:
            block["image"] = {"column": self.image, "folder": str(Path(source).parent)}
        elif self.text and "{" in self.text:
            block["text"] = self.text
        else:
            block["text"] = {"column": self.text}
        label: dict[str, Any] = {"column": self.label}
        if self.at_least is not None:
            label["ge"] = self.at_least
        elif self.positive:
            label |= {
                "positive": _one_or_all(self.positive),
                "negative": _one_or_all(self.negative),
            }
        groups = self.groups[0] if len(self.groups) == 1 else list(self.groups)
        splits = {"column": self.split} if self.split else {"shares": SPLITS, "seed": 0}
        return block | {"label": label, "groups": {"column": groups}, "splits": splits}


def _one_or_all(values: tuple[str, ...]) -> Any:
    return values[0] if len(values) == 1 else list(values)


@dataclass(frozen=True)
class Started:
    """What was written, and what the rows are.

    Attributes:
        folder: with the files.
        rows: split → rows.
        positive: share of rows whose label is 1, of all.
        groups: name → (rows, positive rows) on validation rows.
        small: groups that are too small there to decide a gap.
        warnings: what the data say of themselves.
        commands: the next ones to type.
    """

    folder: Path
    rows: dict[str, int]
    positive: float
    groups: dict[str, tuple[int, int]]
    small: tuple[str, ...]
    warnings: tuple[str, ...]
    commands: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "folder": str(self.folder),
            "rows": self.rows,
            "positive": self.positive,
            "groups": {name: {"n": n, "n_pos": p} for name, (n, p) in self.groups.items()},
            "small": list(self.small),
            "warnings": list(self.warnings),
            "commands": list(self.commands),
        }


def start(answers: TableAnswers, out: Path, *, overwrite: bool = False) -> Started:
    """Check the answers on the rows, and write the three files.

    Args:
        answers: about the table.
        out: the folder, made if needed.
        overwrite: replace other files of these names.

    Raises:
        DataError: what the description says does not fit the table; names column, row and value.
        ConfigError: files of these names are there.
    """
    rows = load_rows(load_spec(answers.data(), answers.file))
    files = {out / name: text for name, text in _texts(answers, out).items()}
    require_no_other(files, overwrite=overwrite)
    with made_folder(out):
        write_together(files)
    return _started(rows, out)


def _started(rows: Rows, out: Path) -> Started:
    validation = rows.of("validation")
    groups = {
        name: (int(inside.sum()), int(validation.labels[inside].sum()))
        for name, inside in zip(validation.group_names, validation.membership.T, strict=True)
    }
    small = [
        name
        for name, (count, positive) in groups.items()
        if min(positive, count - positive) < MIN_GROUP_SIZE
    ]
    return Started(
        folder=out,
        rows={name: int((rows.split == name).sum()) for name in SPLITS},
        positive=float(np.mean(rows.labels)),
        groups=groups,
        small=tuple(small),
        warnings=tuple(rows.warnings),
        commands=(
            _command("train", out / "train.yml", "-o", out / "models"),
            _command("sweep", out / "sweep.yml", "-o", out / "sweep"),
            _command("merge", out / "sweep" / "selected" / "recipe.yml", out / "merged"),
        ),
    )


def _command(*words: object) -> str:
    return shlex.join(["mergekit-fair", *map(str, words)])


def _texts(answers: TableAnswers, out: Path) -> Mapping[str, str]:
    """Name of a file → its text."""
    data = dump_yaml(answers.data(out))
    return {
        "data.yml": f"{_DATA}{data}{_MORE_DATA}",
        "train.yml": _TRAIN.format(model=yaml.safe_dump(answers.model).splitlines()[0]),
        "sweep.yml": _SWEEP,
    }


_DATA = """\
# What a row is: its text (or picture), its 0/1 label, its groups, its split.
"""
_MORE_DATA = """\
# With shares, rows are dealt by a hash of their text, so that added or sorted rows move no other.
# exclude groups that name nobody:      groups: {column: …, exclude: [Other]}
# rows of one author or template:       cluster: COLUMN
# rows that stand for several people:   weight: COLUMN
# All keys: recipes/README.md, "Writing your own".
"""
_TRAIN = """\
# What is trained: the base with its head, full fine-tuning (fft), LoRA, and a model of each group.
model: {model}   # a folder, a name on the Hub, or package:module:folder
data: data.yml
head: probe            # a linear probe of the base, saved before anything is trained
seed: 0
seeds: 1               # 3: FFT three times, and their mean as `soup`, a strong baseline
max_length: 128        # tokens of a text
training: {{learning_rate: 5.0e-5, batch_size: 16, epochs: 2}}   # bf16: true is often faster
lora: {{rank: 8, alpha: 16, learning_rate: 1.0e-3}}              # false: no LoRA
subgroups: {{steps: match, min_rows: 50}}                        # as many steps as FFT takes
"""
_SWEEP = """\
# What is measured: merges base + λ · (the groups' vectors), beside models that are no merge.
recipe: models/addition.yml            # `train` writes it
grid: {lambda: "0:1:0.1"}
evaluate: {data: data.yml, batch_size: 32, max_length: 128}
baselines: {fft: models/fft, lora: models/lora}
controls: [random]                     # random vectors of the same lengths
# Chosen on validation rows; report rows are opened once, for the choice.
select: {maximize: acc, subject_to: {dpd: "<= fft", eod: "<= fft"}}
# A fair head on FFT's features is what lowers gaps most (docs/fair-heads.md):
head: {metric: eod, of: [fft]}
"""
