"""The YAML of `mergekit-fair train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mergekit_fair.data import DataSpec, spec_inside
from mergekit_fair.errors import ConfigError
from mergekit_fair.files import beside
from mergekit_fair.schema import Strict, load_yaml, nearest, parse
from mergekit_fair.training.kinds import (
    KINDS,
    Dro,
    Kept,
    Lora,
    Positive,
    Reweight,
    SparseTraining,
    Talos,
    TangentTraining,
    TrainingKind,
)

Share = Annotated[float, Field(gt=0, lt=1)]

LAST_SEED = 2**32 - 1  # that numpy takes

# What these keys of transformers' TrainingArguments are for is decided by this package.
_OWN_ARGUMENTS = frozenset(
    {
        *("output_dir", "max_steps", "num_train_epochs", "seed", "data_seed", "save_strategy"),
        *("save_steps", "learning_rate", "per_device_train_batch_size", "weight_decay"),
        *("lr_scheduler_type", "warmup_steps", "bf16", "remove_unused_columns", "report_to"),
        *("use_cpu", "train_sampling_strategy", "auto_find_batch_size"),
    }
)


class Training(Strict):
    """Hyper-parameters; AdamW.

    Attributes:
        warmup: share of the steps over which the learning rate rises.
        batch_size: rows of a batch; of like length, in an order that the seed decides.
        arguments: any other keys of transformers' `TrainingArguments`.
    """

    learning_rate: Positive = 5e-5
    batch_size: Annotated[int, Field(gt=0)] = 16
    epochs: Positive = 2
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scheduler: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = "linear"
    bf16: bool = False
    arguments: dict[str, Any] = {}

    @field_validator("arguments")
    @classmethod
    def _known_arguments(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            from transformers import TrainingArguments

            known = {field.name for field in dataclasses.fields(TrainingArguments)}
            for key, item in value.items():
                if key in _OWN_ARGUMENTS:
                    raise ValueError(f"{key} is decided by train, or by other keys of this file")
                if key == "gradient_accumulation_steps" and (type(item) is not int or item < 1):
                    raise ValueError(f"{key} must be an integer, at least 1; got {item!r}")
                if key not in known:
                    raise ValueError(
                        f"TrainingArguments has no {key!r}{nearest(key, sorted(known))}"
                    )
        return value


class Subgroups(Strict):
    """How the subgroup models are trained.

    Attributes:
        method: a kind of `KINDS`: `fft` (full fine-tune), `lora`, ….
        keep: of `lora`: `model`, the adapter merged into full weights, or `adapter` alone, which
            recipes and sweeps take over the base.
        steps: `match` gives each as many optimiser steps as the model of all rows of its kind.
        epochs: instead of `steps`, passes over the group's own rows.
        min_rows: a smaller group is an error.
        only: train just these groups.
    """

    method: str = "fft"
    keep: Kept = "model"
    steps: Literal["match"] | None = None
    epochs: Positive | None = None
    min_rows: Annotated[int, Field(gt=0)] = 50
    only: Annotated[list[str], Field(min_length=1)] | None = None

    @field_validator("method")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in KINDS:
            known = ", ".join(KINDS)
            raise ValueError(
                f"unknown method {value!r}{nearest(value, list(KINDS))}; allowed: {known}"
            )
        return value

    @model_validator(mode="after")
    def _that_fit(self) -> Subgroups:
        if self.steps and self.epochs:
            raise ValueError("give steps: match or epochs: N, not both")
        if KINDS[self.method].of_all_rows:
            raise ValueError(
                f"{self.method} weighs groups against each other, and a subgroup's model sees one: "
                f"give {self.method}: {{}} beside subgroups for a model of all rows"
            )
        if self.keep == "adapter" and not issubclass(KINDS[self.method], Lora):
            raise ValueError(f"keep: adapter is for method: lora; {self.method} has no adapter")
        return self


class TrainConfig(Strict):
    """Everything that decides the weights of a training folder.

    Attributes:
        model: a folder, a Hub id, or `package:module:folder` of an installed package.
        sha256: of the model's weight file; training refuses another one.
        data: the data description, a mapping or the path of a YAML file beside this one.
        head: `probe` fits the head's linear layer on all training rows before the base is saved,
            so that λ = 0 is a classifier; `random` leaves it as seeded.
        seed: of a random head, of the order of rows and of dropout.
        seeds: how often FFT is trained, with seed, seed + 1, …; two or more give a soup, too, their
            uniform mean. It may be another number later: only what is missing is trained.
        lora: settings of LoRA, and a model of this kind trained on all rows, as a baseline;
            `false` leaves that out.
        talos, sparse, tangent, reweight, dro: likewise; left out unless there is a block.
        subgroups: `false` leaves their models out: a fair head or a soup needs none. Both may be
            asked for later: only what is missing is trained.
        checkpoints: shares of the steps at which an early checkpoint is kept as a model.
        save_every: share of the steps between the states that a killed run resumes from; more where
            saving them would take a twentieth of the time.
    """

    model: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    data: DataSpec
    head: Literal["probe", "random"] = "probe"
    seed: Annotated[int, Field(ge=0, le=LAST_SEED)] = 0
    seeds: Annotated[int, Field(gt=0)] = 1
    max_length: Annotated[int, Field(gt=0)] = 128
    training: Training = Training()
    lora: Lora | Literal[False] = Lora()
    talos: Talos | Literal[False] = False
    sparse: SparseTraining | Literal[False] = False
    tangent: TangentTraining | Literal[False] = False
    reweight: Reweight | Literal[False] = False
    dro: Dro | Literal[False] = False
    subgroups: Subgroups | Literal[False] = Subgroups()
    checkpoints: list[Share] = []
    save_every: Share = 0.25

    @model_validator(mode="after")
    def _seeds_that_exist(self) -> TrainConfig:
        if self.seed + self.seeds - 1 > LAST_SEED:
            raise ValueError(
                f"the last of {self.seeds} seeds from {self.seed} is above {LAST_SEED}"
            )
        return self

    @model_validator(mode="after")
    def _losses_that_are_smoothed(self) -> TrainConfig:
        kinds = {name: type(kind) for name, kind in self.baselines.items()}
        if self.subgroups:
            kinds[self.subgroups.method] = KINDS[self.subgroups.method]
        own = [name for name, kind in kinds.items() if kind.has_own_loss]
        if own and self.training.arguments.get("label_smoothing_factor"):
            raise ValueError(f"label_smoothing_factor is not for {', '.join(own)}")
        return self

    def kind(self, name: str) -> TrainingKind:
        """The settings of a kind: the file's block of its name, or its own defaults."""
        kind = self.baselines.get(name) or KINDS[name]()
        if kind.learning_rate is not None:
            return kind
        return kind.model_copy(update={"learning_rate": self.training.learning_rate})

    @property
    def baselines(self) -> dict[str, TrainingKind]:
        """The kinds beside FFT that are trained on all rows, in the order of `KINDS`."""
        blocks = {name: getattr(self, name, False) for name in KINDS}
        return {name: block for name, block in blocks.items() if isinstance(block, TrainingKind)}


def load_train_config(path: str | Path, seed: int | None = None) -> TrainConfig:
    """Read and check a training file; `data: FILE` is read too, beside the training file.

    The folder of `model` begins in the working directory, or beside the training file.

    Args:
        path: of the file.
        seed: in the place of the file's.

    Raises:
        ConfigError: unknown or missing keys, values of the wrong type, unreadable files.
    """
    raw = load_yaml(path)
    if "data" not in raw:
        raise ConfigError(
            "data is missing", where=path, fix="give the data description or the path of its file"
        )
    data = spec_inside(raw.pop("data"), path)
    if seed is not None:
        raw["seed"] = seed
    config = parse(TrainConfig, {**raw, "data": data}, path)
    model = beside(config.model, path, f"{path}: model")
    return config.model_copy(update={"model": model})
