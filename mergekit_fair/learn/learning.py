"""λ of every vector and tensor by gradient on some rows, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mergekit_fair.evaluation.evaluator import Scorer
from mergekit_fair.learn.coefficients import Array, CoefficientMap, Per, shared_by
from mergekit_fair.learn.composed_model import ComposedModel
from mergekit_fair.learn.objectives import Objective
from mergekit_fair.learn.posterior import LearnedNumbers, PointNumbers, SpikeAndSlab
from mergekit_fair.progress import Progress
from mergekit_fair.training.batches import length_grouped_batches

SPLIT = "validation"


@dataclass(frozen=True)
class Schedule:
    """How numbers are learned.

    Attributes:
        per: what shares a number.
        rounds: of the merge's own difference vector, after the first (DV-BASI).
        epochs: over the rows, at most, of each round.
        learning_rate: of Adam.
        batch_size: rows of a step.
        bf16: compute steps, though no figures, in bfloat16 where that is safe (autocast).
        spike_and_slab: learn a posterior of the numbers, of which the expectation is kept.
        seed: of the batches' order and of draws.
    """

    per: Per = "tensor"
    rounds: int = 0
    epochs: int = 4
    learning_rate: float = 0.01
    batch_size: int = 32
    bf16: bool = False
    spike_and_slab: bool = False
    seed: int = 0

    @property
    def total(self) -> int:
        """Epochs of all rounds."""
        return self.epochs * (1 + self.rounds)


class RowGaps:
    """Logit gaps of the validation rows, of the weights that the model has now.

    Args:
        scorer: with the model, whose task is answered by no or yes.
        bf16: compute those with a gradient in bfloat16 where that is safe (autocast).
    """

    def __init__(self, scorer: Scorer, *, bf16: bool = False) -> None:
        self._scorer, self._lm, self._bf16 = scorer, scorer.lm, bf16
        requests = scorer.requests(SPLIT)
        (task,) = requests.tasks
        first = np.array(requests.positions[task.name])[::2]
        classes = requests.prepared.classes(self._lm.choices)
        self._inputs = requests.prepared.inputs
        self._documents = requests.prepared.rows[first]
        self._no, self._yes = (torch.from_numpy(classes[first + side]) for side in (0, 1))
        self.lengths = [self._inputs.lengths[document] for document in self._documents]

    def all(self, progress: Progress, label: str) -> Array:
        """z (n,), without a gradient.

        Raises:
            ScoreError: they are NaN or infinite.
        """
        (gaps,) = self._scorer.score(SPLIT, progress=progress, label=label).values()
        return np.asarray(gaps, dtype=np.float64)

    def of(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """z of some rows, with a gradient."""
        batch = self._inputs.batch(self._documents[rows].tolist())
        device = torch.device(self._lm.device).type
        with torch.autocast(device, torch.bfloat16, enabled=self._bf16):
            logits = self._lm.logits(batch).float()
        each = torch.arange(len(rows), device=logits.device)
        no, yes = (side[rows].to(logits.device) for side in (self._no, self._yes))
        return logits[each, yes] - logits[each, no]


def trajectory(
    model: ComposedModel,
    gaps: RowGaps,
    first: Array,
    objective: Callable[[NDArray[np.bool_]], Objective],
    known: Array,
    chosen: NDArray[np.bool_],
    schedule: Schedule,
    advance: Callable[[int], None],
) -> Iterator[tuple[Array, LearnedNumbers]]:
    """λ (G, T) and the numbers behind them after every epoch over the chosen rows.

    The objective is one of all chosen rows: those that are not in a step's batch count with their
    latest z, without a gradient. So gaps between groups are never those of a batch; but what the
    whole answers to a step is seen an epoch later, and steps swing around the minimum: what is
    returned is the mean of an epoch's numbers.

    Args:
        model: whose weights are set.
        gaps: of the rows.
        first: λ (G, T), where learning begins.
        objective: of rows, bool (n,).
        known: z (n,) at `first`.
        chosen: bool (n,).
        schedule: how.
        advance: told of every row.
    """
    rows, table = np.flatnonzero(chosen), known.copy()
    value_of = objective(chosen)
    place = np.cumsum(chosen) - 1
    lengths = [gaps.lengths[row] for row in rows]
    steps = -(-len(rows) // schedule.batch_size)
    random = torch.Generator().manual_seed(schedule.seed)
    lambdas = first
    for turn in range(1 + schedule.rounds):
        of_vectors = CoefficientMap.of_vectors(lambdas, shared_by(schedule.per, model.tensors))
        of = CoefficientMap.of_difference(lambdas) if turn else of_vectors
        numbers: LearnedNumbers = (SpikeAndSlab if schedule.spike_and_slab else PointNumbers)(
            of.first
        )
        optimizer = torch.optim.Adam(numbers.parameters, lr=schedule.learning_rate)
        batches = length_grouped_batches(
            lengths, schedule.batch_size, steps * schedule.epochs, schedule.seed + turn
        )
        sums = np.zeros_like(of.first)
        for number, batch in enumerate(batches, start=1):
            picked = rows[batch]
            drawn = numbers.draw(random)
            model.set(of.lambdas(drawn.detach().numpy()))
            found = gaps.of(picked)
            table[picked] = found.detach().cpu().double().numpy()
            _, slope = value_of(table[rows])
            up = slope[place[picked]] * len(rows) / len(picked)
            torch.autograd.backward(found, torch.from_numpy(up).to(found))
            optimizer.zero_grad()
            torch.autograd.backward(drawn, torch.from_numpy(of.gradient(model.gradient())))
            if schedule.spike_and_slab:
                torch.autograd.backward(numbers.divergence() / len(rows))
            optimizer.step()
            advance(len(picked))
            sums += numbers.expected()
            if number % steps == 0:
                lambdas = of.lambdas(sums / steps)
                yield lambdas, numbers
                sums[:] = 0
