"""A training folder: plan the runs, train what is not there yet, write train.json."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergekit_fair.checkpoints.trained_rows import TrainedRows
from mergekit_fair.data import load_rows, source_fingerprint
from mergekit_fair.errors import ConfigError, TrainingError
from mergekit_fair.evaluation.classifier import model_config, resolve_device
from mergekit_fair.evaluation.truncation import Truncation
from mergekit_fair.files import lock_folder, staged_folder, write_atomic
from mergekit_fair.progress import Progress, Silent, bar
from mergekit_fair.ray_pool import Cluster, RayPool
from mergekit_fair.schema import dump_yaml
from mergekit_fair.training.base_model import build_base, file_sha256, model_source
from mergekit_fair.training.family_record import FamilyRecord, is_whole
from mergekit_fair.training.finetune import (
    BATCHES,
    STATES,
    Entry,
    FamilyTrainer,
    TrainingRun,
    has_these_batches,
    process_state,
)
from mergekit_fair.training.kinds import Kept, Lora
from mergekit_fair.training.soup import FOLDER as SOUP
from mergekit_fair.training.soup import make_soup, seed_runs
from mergekit_fair.training.train_config import Subgroups, TrainConfig
from mergekit_fair.training.training_actor import TrainingActor
from mergekit_fair.training.training_rows import (
    require_trainable,
    small_groups,
    subgroups,
    thin_groups,
)

if TYPE_CHECKING:
    from mergekit_fair.data import Rows
    from mergekit_fair.evaluation.model_inputs import ModelInputs


def train(
    config: TrainConfig,
    out: Path,
    progress: Progress,
    device: str = "auto",
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Train the whole family in `out`; the same call again goes on where it was killed.

    Writes `base`, `fft`, `lora` and other kinds, `groups/<group>`, `addition.yml` and `train.json`;
    with `seeds` also `seeds/<seed>`, `soup.yml` and `soup`; without subgroups no `addition.yml`.

    Args:
        config: the training file.
        out: the folder.
        progress: told what is done.
        device: where the head's probe is fitted.
        cluster: train the models side by side on Ray; None: one after the other, here. The weights
            are the same where a worker has as many threads.

    Returns:
        The content of train.json.

    Raises:
        TrainingError: rows or a group with too few rows or one class only, a label that nothing
            teaches, fewer than two groups for a kind that weighs them, or a folder that was
            trained with other settings.
        ConfigError: another process is training in `out`, or there is no such cluster.
        WorkerError: a worker was lost.
        DataError, CheckpointError: from the data and the model.
    """
    state = process_state()
    if cluster and state.num_processes > 1:
        raise ConfigError(
            "is not for processes of a launcher",
            where="--executor ray",
            got=f"{state.num_processes} processes",
            fix="take either: Ray trains models side by side, a launcher each model on all of them",
        )
    if not state.is_main_process:
        progress = Silent()
    rows, groups = _rows_and_groups(config, progress)
    lock = lock_folder(out) if state.is_main_process else None
    try:
        return _train(config, out, rows, groups, progress, device, cluster)
    finally:
        if lock:
            lock.close()


def dry_run(config: TrainConfig, progress: Progress) -> list[TrainingRun]:
    """The models that `train` would make after the base; reads rows and the model's configuration.

    Raises:
        TrainingError, DataError, CheckpointError: as `train`, of rows, groups and a model that is
            not there.
    """
    model_config(model_source(config))
    rows, groups = _rows_and_groups(config, progress)
    return plan_runs(config, rows.of("train"), groups)


def _rows_and_groups(config: TrainConfig, progress: Progress) -> tuple[Rows, list[str]]:
    """All rows, and the groups that get a model; says what is thin or small."""
    rows = load_rows(config.data)
    training_rows = rows.of("train")
    require_trainable(config, training_rows)
    groups = subgroups(config, training_rows)
    for kind in config.baselines.values():
        kind.columns(training_rows)  # refuses rows that it cannot be trained on
    for warning in (*rows.warnings, *thin_groups(training_rows, groups), *small_groups(rows)):
        progress.say(f"warning: {warning}")
    return rows, groups


def _train(
    config: TrainConfig,
    out: Path,
    rows: Rows,
    groups: list[str],
    progress: Progress,
    device: str,
    cluster: Cluster | None,
) -> dict[str, Any]:
    state = process_state()
    training_rows = rows.of("train")
    family = FamilyRecord(out, config, rows.fingerprint(), is_writer=state.is_main_process)
    seen = TrainedRows.of(training_rows, rows)
    with state.main_process_first():
        family.claim(progress)
        inputs = _base(config, training_rows, family, progress, resolve_device(device), seen)
    runs = plan_runs(config, training_rows, groups, state.num_processes)
    _require_alike(config, runs, family)
    trainer = FamilyTrainer(config, training_rows, out, inputs)
    missing = [run for run in runs if not family.has(run.name)]
    if config.head == "probe":  # through it every model has seen all of the training rows
        missing = [replace(run, seen=seen) for run in missing]
    else:
        keys = training_rows.keys()
        missing = [
            replace(run, seen=replace(seen, keys=np.unique(keys[run.rows]))) for run in missing
        ]
    if missing and (other := [run.name for run in runs if family.has_other_batches(run.name)]):
        progress.say(
            f"warning: {', '.join(other)}: trained by an earlier version, in batches of random "
            "rows; what is trained now takes batches of like length"
        )
    for run, entry in _trained(missing, trainer, cluster, progress):
        _enter(run, entry, trainer, family, progress)
    family.sort(["base", *(run.name for run in runs)])
    if state.is_main_process:
        recipe = out / "addition.yml"
        if groups and not recipe.is_file():  # it may be somebody's by now
            write_atomic(recipe, dump_yaml(family_recipe(groups)))
        _soup(config, family, progress)
        source = source_fingerprint(config.data)
        family.write(data=config.data.to_dict(), source=source, counts=rows.counts())
        family.remove(out / STATES)
    return family.record


def plan_runs(
    config: TrainConfig, rows: Rows, groups: list[str], processes: int = 1
) -> list[TrainingRun]:
    """The runs in their order: FFT, other kinds, one per group, then FFT with further seeds."""

    def full(method: str) -> int:
        epochs = config.kind(method).epochs or config.training.epochs
        return steps_for(config, len(rows), epochs, processes)

    fft, *further = (
        TrainingRun(name, "fft", full("fft"), np.arange(len(rows)), seed)
        for name, seed in seed_runs(config.seed, config.seeds).items()
    )
    runs = [fft]
    for name, kind in config.baselines.items():
        keep: Kept = kind.keep if isinstance(kind, Lora) else "model"
        runs.append(replace(fft, name=name, method=name, steps=full(name), keep=keep))
    block = config.subgroups or Subgroups()
    for name in groups:
        of_group = np.flatnonzero(rows.membership[:, rows.group_names.index(name)])
        size = len(of_group)
        steps = full(block.method)
        if block.epochs:
            steps = steps_for(config, size, block.epochs, processes)
        runs.append(
            TrainingRun(
                f"groups/{name}", block.method, steps, of_group, config.seed, keep=block.keep
            )
        )
    return [*runs, *further]


def steps_for(config: TrainConfig, rows: int, epochs: float, processes: int = 1) -> int:
    """Optimiser steps of `epochs` passes over `rows` rows on all processes together."""
    accumulation = int(config.training.arguments.get("gradient_accumulation_steps", 1))
    batch = config.training.batch_size * processes * accumulation
    return max(1, math.ceil(math.ceil(rows / batch) * epochs))


def _base(
    config: TrainConfig,
    rows: Rows,
    family: FamilyRecord,
    progress: Progress,
    device: str,
    seen: TrainedRows,
) -> ModelInputs | None:
    """Make the base if it is not there; returns the rows' inputs if they were made for it."""
    if family.has("base"):
        return None
    inputs = None
    start, out = time.monotonic(), family.folder / "base"
    if not (out / "config.json").is_file():  # else: killed between the two, as in `_one`
        with staged_folder(out) as folder:
            inputs = build_base(config, rows, folder, device, seen)
    seconds = round(time.monotonic() - start, 1)
    weights = out / "model.safetensors"
    entry: dict[str, Any] = {"head": config.head, "n": len(rows), "seconds": seconds}
    if weights.is_file():
        entry["sha256"] = file_sha256(weights)
    family.add("base", entry)
    progress.say(f"base: {config.head} head, {seconds:.0f} s")
    return inputs


def _trained(
    runs: list[TrainingRun], trainer: FamilyTrainer, cluster: Cluster | None, progress: Progress
) -> Iterator[tuple[TrainingRun, Entry]]:
    """Train what is not there, here or side by side; what goes into train.json, as it is done."""
    waiting = []
    for run in runs:
        if is_whole(trainer.folder / run.name):  # killed before train.json said so: it is done
            has_batches = has_these_batches(trainer.states_of(run))
            yield run, {"steps": run.steps} | ({"batches": BATCHES} if has_batches else {})
        else:
            waiting.append(run)
    if cluster is None or not waiting:
        for run in waiting:
            yield run, trainer.finetune(run, progress)
        return
    cluster = replace(cluster, workers=min(cluster.workers, len(waiting)))
    arguments = (trainer.config, trainer.rows, trainer.folder)
    with (
        closing(RayPool(TrainingActor, arguments, cluster, progress)) as pool,
        bar(progress, "models", len(waiting)) as advance,
    ):
        for run, entry in pool.run(waiting):
            advance(1)
            yield run, entry


def _enter(
    run: TrainingRun, entry: Entry, trainer: FamilyTrainer, family: FamilyRecord, progress: Progress
) -> None:
    """Say in train.json, and to the user, that a model is there."""
    rows, method = trainer.rows.take(run.rows), run.method
    about = {"method": method, "seed": run.seed, "n": len(rows), **rows.label_counts}
    family.add(run.name, {**about, **entry})
    family.remove(trainer.states_of(run))
    if "truncated" in entry:
        truncation = Truncation.from_dict(entry["truncated"])
        if (said := truncation.sentence(trainer.config.max_length)) is not None:
            progress.say(f"warning: {run.name}: {said}")
    seconds = f", {entry['seconds']:.0f} s" if "seconds" in entry else ""
    progress.say(f"{run.name}: {method}, {len(rows)} rows, {run.steps} steps{seconds}")


def _require_alike(config: TrainConfig, runs: Iterable[TrainingRun], family: FamilyRecord) -> None:
    """Models of a soup take the same number of steps.

    Raises:
        TrainingError: one was trained by another number of processes, each of which has a batch.
    """
    seeds = seed_runs(config.seed, config.seeds) if config.seeds > 1 else {}
    for run in runs:
        if run.name not in seeds or not family.has(run.name):
            continue
        steps = family.record["runs"][run.name].get("steps")
        if steps != run.steps:
            raise TrainingError(
                "took another number of steps than further seeds would now",
                where=family.folder / run.name,
                got=steps,
                allowed=run.steps,
                fix="start as many processes as it was trained with, or remove its folder to "
                "have it trained again",
            )


def _soup(config: TrainConfig, family: FamilyRecord, progress: Progress) -> None:
    """The mean of as many seeds as the file says, made anew if it says another number now."""
    if config.seeds < 2 or family.of_soup == list(seed_runs(config.seed, config.seeds)):
        return
    family.forget(SOUP)
    start = time.monotonic()
    most = 1 + sum(name.startswith("seeds/") for name in family.record["runs"])
    of = make_soup(family.folder, config.seed, config.seeds, most, progress)
    seconds = round(time.monotonic() - start, 1)
    family.add(SOUP, {"method": "mean", "of": of, "seconds": seconds})
    progress.say(f"soup: mean of {', '.join(of)}, {seconds:.0f} s")


def family_recipe(groups: Iterable[str]) -> dict[str, Any]:
    """Subgroup task addition over the family that the recipe lies in, at λ = 0.2.

    Its paths begin beside it, so that the folder can be moved and used from anywhere. The `./` is
    for stock mergekit, which would look for `groups/x` on the Hub; it has to run in the folder.
    """
    from mergekit_fair.merging.methods.subgroup_task_addition import addition_recipe

    vectors = {f"./groups/{name}": (name, 1.0) for name in groups}
    return addition_recipe("./base", vectors, "float32", lambda_=0.2)
