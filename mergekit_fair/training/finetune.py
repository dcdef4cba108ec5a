"""Fine-tuning runs on transformers' Trainer: each resumable, and complete or absent."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import TrainingError, first_line
from mergekit_fair.evaluation.classifier import auto_class
from mergekit_fair.evaluation.model_inputs import ModelInputs, load_processor, open_inputs
from mergekit_fair.evaluation.truncation import Truncation
from mergekit_fair.files import placed, staged_folder, write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.training.batches import Batch, batches_digest, length_grouped_batches
from mergekit_fair.training.kinds import Kept, Material, TrainingKind
from mergekit_fair.training.train_config import TrainConfig

Entry = dict[str, Any]  # of a run in train.json

# What train.json says of them; earlier versions, whose batches were of random rows, say nothing.
BATCHES = "by length"
_DIGEST = "batches.sha256"
STATES = ".work"
# What transformers raises of arguments while it trains; of a model without, say, checkpointing.
_REFUSALS = (TypeError, ValueError, ImportError, AttributeError)
# A state is saved where that takes a twentieth of the time since the last one, or less.
_RARE = 20

if TYPE_CHECKING:
    from mergekit_fair.checkpoints.trained_rows import TrainedRows
    from mergekit_fair.data import Rows


@dataclass(frozen=True)
class TrainingRun:
    """One model to train.

    Attributes:
        name: its folder below the training folder: `fft`, `lora` or another kind,
            `groups/<group>`, `seeds/<seed>`.
        method: its kind, a name of `KINDS`.
        steps: optimiser steps.
        rows: int64, which of the family's training rows.
        seed: of their order and of dropout.
        seen: what is written beside the model about all rows that went into it.
        keep: what is kept of it.
    """

    name: str
    method: str
    steps: int
    rows: NDArray[np.int64]
    seed: int
    seen: TrainedRows | None = None
    keep: Kept = "model"


class FamilyTrainer:
    """Trains the models of one family, whose rows it tokenises once.

    Args:
        config: of the training folder.
        rows: all training rows.
        folder: the training folder, in which `base` is there.
        inputs: of these rows, if somebody has them.
    """

    def __init__(
        self, config: TrainConfig, rows: Rows, folder: Path, inputs: ModelInputs | None = None
    ) -> None:
        self.config, self.rows, self.folder = config, rows, folder
        self.base = folder / "base"
        self._inputs = inputs

    @cached_property
    def inputs(self) -> ModelInputs:
        """Of all training rows."""
        return self._inputs or open_inputs(self.rows, self.base, self.config.max_length)

    @cached_property
    def processor(self) -> Any:
        """The tokenizer or image processor that is saved with every model."""
        return load_processor(self.base, self.rows.kind)

    def states_of(self, run: TrainingRun) -> Path:
        """Where a killed run leaves its last state."""
        return self.folder / STATES / run.name.replace("/", "--")

    def finetune(self, run: TrainingRun, progress: Progress) -> Entry:
        """Train one model from the base, and put it at its place when it is complete.

        The same call after a kill goes on from the last state and ends with the same weights. A
        state of other batches is removed.

        Raises:
            TrainingError: `training.arguments` that transformers refuses, or weights that are NaN.

        Returns:
            What goes into train.json: steps, batches, seconds, mean training loss, texts that were
            cut.
        """
        from transformers import set_seed

        kind, config = self.config.kind(run.method), self.config
        out, work = self.folder / run.name, self.states_of(run)
        set_seed(run.seed)
        state = process_state()
        base = auto_class(self.rows.kind).from_pretrained(str(self.base)).to(state.device)
        model = kind.prepare(base, self._material(run, state.device))
        with _known_settings(config):
            arguments = _arguments(run, config, kind.learning_rate, work)
        batches = self._batches(run, arguments)
        with placed(out), state.main_process_first():
            if state.is_main_process and not _claim_states(batches, work):
                progress.say(f"{run.name}: begins anew: what was left of it took other batches")
        keeper = _keeper(run, self, work, progress)
        with _known_settings(config):
            trainer = self._trainer(model, kind, arguments, batches, keeper)
        progress.start(run.name, run.steps)
        # The states that a killed run resumes from fill a disk, too.
        with placed(out), _known_settings(config, _REFUSALS):
            result = trainer.train(resume_from_checkpoint=last_state(work))
        progress.stop()
        _require_finite(run.name, trainer.model)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if state.is_main_process:
            with staged_folder(out) as folder:
                self.save(trained, run, folder)
                if (work / "kept").is_dir():
                    shutil.copytree(work / "kept", folder / "checkpoints")
        state.wait_for_everyone()
        entry: Entry = {
            "steps": run.steps,
            "batches": BATCHES,
            "seconds": round(keeper.elapsed(), 1),
            "train_loss": round(float(result.training_loss), 6),
            **kind.facts(trained),
        }
        if self.inputs.is_cut is not None:
            truncation = Truncation.of(self.inputs.is_cut[run.rows], self._groups(run))
            entry["truncated"] = truncation.to_dict()
        return entry

    def save(self, model: Any, run: TrainingRun, folder: Path) -> None:
        """Full weights that transformers loads, or an adapter for peft, with their tokenizer or
        image processor."""
        kind = self.config.kind(run.method)
        kept = model if run.keep == "adapter" else kind.full_weights(model, folder)
        kept.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        for place in (folder, *folder.glob("adapter")):
            if run.seen is not None:
                run.seen.write(place)

    def _material(self, run: TrainingRun, device: Any) -> Material:
        def sample(count: int) -> Iterator[dict[str, Any]]:
            for row in np.random.default_rng(run.seed).permutation(run.rows)[:count].tolist():
                yield {key: each.to(device) for key, each in self.inputs.batch([row]).items()}

        return Material(self.rows.take(run.rows), sample)

    def _groups(self, run: TrainingRun) -> dict[str, Any]:
        return dict(zip(self.rows.group_names, self.rows.membership[run.rows].T, strict=True))

    def _batches(self, run: TrainingRun, arguments: Any) -> list[Batch]:
        """Of the family's training rows. The Trainer takes a batch for an example: a step of it
        takes as many as there are processes, devices of a process, and accumulated gradients."""
        per_step = arguments.world_size * arguments.gradient_accumulation_steps
        lengths = [self.inputs.lengths[row] for row in run.rows.tolist()]
        batches = length_grouped_batches(
            lengths,
            self.config.training.batch_size,
            run.steps,
            run.seed,
            per_step * arguments.train_batch_size,
        )
        return [run.rows[batch] for batch in batches]

    def _trainer(
        self, model: Any, kind: TrainingKind, arguments: Any, batches: list[Batch], keeper: Any
    ) -> Any:
        import torch
        from transformers import Trainer
        from transformers.trainer_callback import PrinterCallback

        labels = torch.from_numpy(self.rows.labels)
        # Of each of several labels the loss is binary cross entropy, with probabilities as targets.
        labels = labels.float() if self.rows.label_kind == "labels" else labels.long()

        further = {key: torch.from_numpy(each) for key, each in kind.columns(self.rows).items()}

        def collate(picked: list[Batch]) -> dict[str, torch.Tensor]:
            rows = np.concatenate(picked).tolist()
            columns = {key: each[rows] for key, each in further.items()}
            return {**self.inputs.batch(rows), **columns, "labels": labels[rows]}

        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=batches,
            data_collator=collate,
            callbacks=[keeper],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer


def has_these_batches(work: Path) -> bool:
    """Whether the run that has left `work` took batches by length."""
    return (work / _DIGEST).is_file()


def _claim_states(batches: list[Batch], work: Path) -> bool:
    """Make `work` ready for a run with these batches.

    A state that another version, or number of processes, has left there took other batches: it is
    removed, and the result is false.
    """
    file, digest = work / _DIGEST, batches_digest(batches)
    if file.is_file() and file.read_text() == digest:
        return True
    is_empty = not any(work.glob("checkpoint-*"))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_atomic(file, digest)
    return is_empty


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


def _arguments(
    run: TrainingRun, config: TrainConfig, learning_rate: float | None, work: Path
) -> Any:
    import torch
    from transformers import TrainingArguments

    has_accelerator = torch.accelerator.is_available()
    training = config.training
    settings = {
        "output_dir": str(work),
        "max_steps": run.steps,
        "learning_rate": learning_rate,
        # Batches are made here, each of which is an example for it.
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
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


def _keeper(run: TrainingRun, family: FamilyTrainer, work: Path, progress: Progress) -> Any:
    """A Trainer callback: progress, time spent before a kill, early checkpoints, fewer states."""
    from transformers import TrainerCallback

    wanted = {max(1, round(share * run.steps)) for share in family.config.checkpoints}
    clock = work / "seconds.json"
    is_alone = process_state().num_processes == 1  # of several all have to save

    class Keeper(TrainerCallback):
        before = float(json.loads(clock.read_text())) if clock.is_file() else 0.0
        start = step_ended = last_save = time.monotonic()
        saving = 0.0  # seconds that the last state took

        def elapsed(self) -> float:
            return self.before + time.monotonic() - self.start

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            progress.advance(state.global_step)  # done before a kill

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args
            progress.advance(1)
            if state.global_step in wanted and state.is_world_process_zero:
                checkpoint = work / "kept" / f"step-{state.global_step}"
                shutil.rmtree(checkpoint, ignore_errors=True)
                with staged_folder(checkpoint) as folder:
                    family.save(kwargs["model"], run, folder)
            self.step_ended = time.monotonic()
            is_last = state.global_step == run.steps  # the model itself follows
            if is_last or (is_alone and self.step_ended - self.last_save < _RARE * self.saving):
                control.should_save = False

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            self.last_save = time.monotonic()
            self.saving = self.last_save - self.step_ended
            if state.is_world_process_zero:
                write_atomic(clock, json.dumps(self.elapsed()))

    return Keeper()
