"""One fine-tuning run on transformers' Trainer: resumable, and complete or absent."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_fair.errors import TrainingError, first_line
from mergekit_fair.evaluation.classifier import auto_class
from mergekit_fair.evaluation.model_inputs import load_processor, open_inputs
from mergekit_fair.evaluation.truncation import Truncation
from mergekit_fair.files import placed, staged_folder, write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.training.kinds import Kept, TrainingKind
from mergekit_fair.training.train_config import TrainConfig

if TYPE_CHECKING:
    from mergekit_fair.checkpoints.trained_rows import TrainedRows
    from mergekit_fair.data import Rows


@dataclass(frozen=True)
class TrainingRun:
    """One model to train.

    Attributes:
        name: its folder below the training folder: `fft`, `lora`, `groups/<group>`, `seeds/<seed>`.
        method: its kind, a name of `KINDS`.
        steps: optimiser steps.
        rows: the training rows.
        seed: of their order and of dropout.
        seen: what is written beside the model about all rows that went into it.
        keep: what is kept of it.
    """

    name: str
    method: str
    steps: int
    rows: Rows
    seed: int
    seen: TrainedRows | None = None
    keep: Kept = "model"


def finetune(
    run: TrainingRun, config: TrainConfig, base: Path, out: Path, work: Path, progress: Progress
) -> dict[str, Any]:
    """Train one model from `base`, and put it at `out` when it is complete.

    A killed run leaves its last state in `work`; the same call goes on from there and ends with
    the same weights.

    Raises:
        TrainingError: `training.arguments` that transformers refuses, or weights that are NaN.

    Returns:
        What goes into train.json: steps, seconds, mean training loss, texts that were cut.
    """
    from transformers import set_seed

    kind = config.kind(run.method)
    inputs = open_inputs(run.rows, base, config.max_length)
    set_seed(run.seed)
    model = kind.prepare(auto_class(run.rows.kind).from_pretrained(str(base)))
    keeper = _keeper(run, config, base, work, progress)
    with _known_settings(config):
        trainer = _trainer(run, config, model, inputs, kind.learning_rate, work, keeper)
    progress.start(run.name, run.steps)
    # The states that a killed run resumes from fill a disk, too.
    with placed(out), _known_settings(config, (TypeError, ValueError, ImportError)):
        result = trainer.train(resume_from_checkpoint=last_state(work))
    progress.stop()
    _require_finite(run.name, trainer.model)
    state = process_state()
    if state.is_main_process:
        with staged_folder(out) as folder:
            _save(trainer.accelerator.unwrap_model(trainer.model), run, kind, base, folder)
            if (work / "kept").is_dir():
                shutil.copytree(work / "kept", folder / "checkpoints")
        shutil.rmtree(work, ignore_errors=True)
    state.wait_for_everyone()
    entry: dict[str, Any] = {
        "steps": run.steps,
        "seconds": round(keeper.elapsed(), 1),
        "train_loss": round(float(result.training_loss), 6),
    }
    if inputs.is_cut is not None:
        truncation = Truncation.of(inputs.is_cut, _groups(run.rows))
        entry["truncated"] = truncation.to_dict()
        if (said := truncation.sentence(config.max_length)) is not None:
            progress.say(f"warning: {run.name}: {said}")
    return entry


def _groups(rows: Rows) -> dict[str, Any]:
    return dict(zip(rows.group_names, rows.membership.T, strict=True))


def _require_finite(name: str, model: Any) -> None:
    """The loss does not tell: transformers leaves NaN out of its mean."""
    import torch

    bad = [key for key, weights in model.named_parameters() if not torch.isfinite(weights).all()]
    if bad:
        raise TrainingError(
            f"has diverged: {len(bad)} of its tensors are NaN or infinite",
            where=name,
            got=bad[:3],
            fix="lower its learning_rate, or check the model that it starts from",
        )


def process_state() -> Any:
    """accelerate's view of the processes that a launcher has started; one without a launcher."""
    import torch
    from accelerate import PartialState

    # Without an accelerator and without this word it does not see a launcher's processes.
    return PartialState(cpu=not torch.accelerator.is_available())


def last_state(work: Path) -> str | None:
    """The newest complete Trainer checkpoint in `work`; half-written ones are removed."""
    complete = []
    for folder in work.glob("checkpoint-*"):
        try:
            json.loads((folder / "trainer_state.json").read_text())
            complete.append(folder)
        except (OSError, ValueError):
            shutil.rmtree(folder)
    newest = max(complete, key=lambda folder: int(folder.name.split("-")[1]), default=None)
    return str(newest) if newest else None


def _trainer(
    run: TrainingRun,
    config: TrainConfig,
    model: Any,
    inputs: Any,
    learning_rate: float,
    work: Path,
    keeper: Any,
) -> Any:
    import torch
    from transformers import Trainer
    from transformers.trainer_callback import PrinterCallback

    labels = torch.from_numpy(run.rows.labels)
    # Of each of several labels the loss is binary cross entropy, with probabilities as targets.
    labels = labels.float() if run.rows.label_kind == "labels" else labels.long()

    def collate(indices: list[int]) -> dict[str, torch.Tensor]:
        return {**inputs.batch(indices), "labels": labels[indices]}

    trainer = Trainer(
        model=model,
        args=_arguments(run, config, learning_rate, work),
        train_dataset=range(len(labels)),
        data_collator=collate,
        callbacks=[keeper],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(run: TrainingRun, config: TrainConfig, learning_rate: float, work: Path) -> Any:
    import torch
    from transformers import TrainingArguments

    has_accelerator = torch.accelerator.is_available()
    training = config.training
    settings = {
        "output_dir": str(work),
        "max_steps": run.steps,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": training.batch_size,
        "weight_decay": training.weight_decay,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": int(training.warmup * run.steps),
        "bf16": training.bf16,
        "seed": run.seed,
        "save_strategy": "steps",
        "save_steps": max(1, round(config.save_every * run.steps)),
        "remove_unused_columns": False,
        "report_to": "none",
        "use_cpu": not has_accelerator,
        "save_total_limit": 1,
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": has_accelerator,
    }
    return TrainingArguments(**(settings | training.arguments))


@contextmanager
def _known_settings(
    config: TrainConfig, kinds: tuple[type[Exception], ...] = (Exception,)
) -> Iterator[None]:
    """What transformers, accelerate and their plug-ins raise of arguments has no type in common."""
    arguments = config.training.arguments
    try:
        yield
    except kinds as error:
        if not arguments or isinstance(error, MemoryError):
            raise
        raise TrainingError(
            f"transformers refuses these settings ({first_line(error)})",
            where="training.arguments",
            got=arguments,
        ) from error


def _keeper(
    run: TrainingRun, config: TrainConfig, base: Path, work: Path, progress: Progress
) -> Any:
    """A Trainer callback: progress, time spent before a kill, early checkpoints."""
    from transformers import TrainerCallback

    wanted = {max(1, round(share * run.steps)) for share in config.checkpoints}
    clock = work / "seconds.json"

    class Keeper(TrainerCallback):
        before = float(json.loads(clock.read_text())) if clock.is_file() else 0.0
        start = time.monotonic()

        def elapsed(self) -> float:
            return self.before + time.monotonic() - self.start

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            progress.advance(state.global_step)  # done before a kill

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control
            progress.advance(1)
            if state.global_step in wanted and state.is_world_process_zero:
                checkpoint = work / "kept" / f"step-{state.global_step}"
                shutil.rmtree(checkpoint, ignore_errors=True)
                with staged_folder(checkpoint) as folder:
                    _save(kwargs["model"], run, config.kind(run.method), base, folder)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            if state.is_world_process_zero:
                write_atomic(clock, json.dumps(self.elapsed()))

    return Keeper()


def _save(model: Any, run: TrainingRun, kind: TrainingKind, base: Path, folder: Path) -> None:
    """Full weights that transformers loads, or an adapter for peft, with their tokenizer or image
    processor."""
    kept = model if run.keep == "adapter" else kind.full_weights(model, folder)
    kept.save_pretrained(folder)
    load_processor(base, run.rows.kind).save_pretrained(folder)
    for place in (folder, *folder.glob("adapter")):
        if run.seen is not None:
            run.seen.write(place)
