"""The models of a family side by side, on Ray actors that each train one at a time."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_fair.files import lock_folder
from mergekit_fair.progress import Silent
from mergekit_fair.ray_pool import PoolActor
from mergekit_fair.training.finetune import Entry, FamilyTrainer, TrainingRun
from mergekit_fair.training.train_config import TrainConfig

if TYPE_CHECKING:
    from mergekit_fair.data import Rows


class TrainingActor(PoolActor):
    """One worker of a training; what it writes lies in the training folder.

    Args:
        config: of the training folder.
        rows: all training rows.
        family: the training folder.
        folder: where the command was started.
        threads: of torch.
    """

    def __init__(
        self, config: TrainConfig, rows: Rows, family: Path, folder: str, threads: int
    ) -> None:
        super().__init__(folder, threads)
        self._config, self._rows, self._family = config, rows, family

    def work(self, job: TrainingRun) -> Entry:
        states = self._trainer.states_of(job)
        # Held while a worker of a killed command still breathes.
        with lock_folder(states.with_name(f"lock--{states.name}")):
            return self._trainer.finetune(job, Silent())

    @cached_property
    def _trainer(self) -> FamilyTrainer:
        import torch

        torch.set_num_threads(self._threads)
        return FamilyTrainer(self._config, self._rows, self._family)
