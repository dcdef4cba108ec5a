"""Task-vector arithmetic on slices of one tensor.

Everything is computed in float64 whatever the input dtype, and rounded once at the end: to the
dtype of the start, bfloat16 and float16 by way of float32 as torch converts. Measured on CPU this
is as fast as subtracting, weighting and adding in float32 (0.51 against 0.53 ns an element), and
vectors that cancel the base leave no error behind. Each element is computed alone unless vectors
are made sparse: where a slice begins changes no bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial

import torch

from mergekit_fair.checkpoints.adapted import SlicedTensor
from mergekit_fair.merging.methods.formula import Election, Formula, Reduction, Sparsifier, Term

ACCUMULATOR = torch.float64

# Elements of a slice: float64 intermediates of this length stay in a processor's cache.
SLICE = 1 << 18

Load = Callable[[Hashable], torch.Tensor]


class KeptDirection:
    """The direction of one tensor, in float64, for merges that differ in λ alone.

    Attributes:
        vector: flat, on any device; valid once `is_known`.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.vector = torch.empty(count, dtype=ACCUMULATOR, device=device)
        self.is_known = False


def merge_tensor(
    formula: Formula,
    tensors: Mapping[Hashable, torch.Tensor | SlicedTensor],
    name: str = "",
    *,
    kept: KeptDirection | None = None,
    out: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The formula on whole tensors in memory, slice by slice.

    Args:
        formula: what to compute.
        tensors: model → tensor, of one shape and device, any floating dtype; borrowed. If `kept` is
            known, the start alone. Those of adapters are made slice by slice, too.
        name: the tensor's name, which seeds random masks.
        kept: where the direction is kept, or taken from if it is there; the bits are the same.
        out: where to write the result: contiguous, of the start's shape and device.
        dtype: of the result; None for the start's.

    Returns:
        The start itself if nothing is added to it, else `out` or a new tensor.
    """
    start = tensors[formula.start]
    if not formula.moves:
        return start if isinstance(start, torch.Tensor) else start.whole()
    if out is None:
        out = torch.empty(start.shape, dtype=dtype or start.dtype, device=start.device)
    target, count, scratch = out.view(-1), out.numel(), Scratch(start.device)
    flat = {model: tensor.flatten() for model, tensor in tensors.items()}
    is_known = kept is not None and kept.is_known
    step = SLICE if is_known or not formula.is_sparse else max(1, count)
    with torch.no_grad():
        for begin in range(0, count, step):
            part = slice(begin, begin + step)
            scratch.reset()
            if kept is not None and is_known:
                vector = kept.vector[part].to(start.device)
                origin = scratch.copy(flat[formula.start][part])
            else:
                load = partial(_part, flat, part)
                vector, origin = parts_of(formula, load, scratch, name)
                if kept is not None:
                    kept.vector[part].copy_(vector)
            target[part].copy_(origin.add_(vector, alpha=formula.scale))
    if kept is not None:
        kept.is_known = True
    return out


def _part(
    tensors: Mapping[Hashable, torch.Tensor | SlicedTensor], part: slice, model: Hashable
) -> torch.Tensor:
    return tensors[model][part]


class Scratch:
    """Memory for the intermediates of a slice, used again for the next one.

    Fresh memory costs more than the arithmetic: the system clears every page of it first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[torch.Tensor] = []
        self._used = 0

    def reset(self) -> None:
        """All that was taken may be overwritten."""
        self._used = 0

    def take(self, count: int) -> torch.Tensor:
        """`count` float64 elements of any content."""
        if self._used == len(self._buffers):
            self._buffers.append(self._empty(count))
        elif len(self._buffers[self._used]) < count:
            self._buffers[self._used] = self._empty(count)
        self._used += 1
        return self._buffers[self._used - 1][:count]

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor's elements in float64."""
        return self.take(len(tensor)).copy_(tensor)

    def _empty(self, count: int) -> torch.Tensor:
        return torch.empty(count, dtype=ACCUMULATOR, device=self._device)


def parts_of(
    formula: Formula, load: Load, scratch: Scratch, name: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """The direction and θ_start of a slice, in float64; the result is start + scale · direction.

    Arguments as `direction`.
    """
    vector, base = direction(formula, load, scratch, name)
    is_base = formula.start == formula.base
    return vector, base if is_base else scratch.copy(load(formula.start))


def direction(
    formula: Formula, load: Load, scratch: Scratch, name: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the scale is multiplied with: the reduced task vectors.

    Args:
        formula: with at least one term.
        load: model → its slice of the tensor, any floating dtype; borrowed until the next call.
            May be called more than once for a model.
        scratch: holds the results until its next reset.
        name: the tensor's name, which seeds random masks.

    Returns:
        The direction and θ₀, both in float64.
    """
    base = scratch.copy(load(formula.base))
    if formula.is_linear:
        return _linear(formula, base, load, scratch), base

    def vectors() -> Iterator[torch.Tensor]:
        for term in formula.terms:
            yield _vector(formula, term, base, load, name)

    if formula.reduction == Reduction.MEDIAN:
        return _median(torch.stack(list(vectors()))), base
    if formula.reduction == Reduction.AGREEMENT:
        return _agreement(vectors(), formula.threshold), base
    if formula.election == Election.NONE:
        return _total(vectors()), base
    return _elected(vectors, formula), base


def _linear(formula: Formula, base: torch.Tensor, load: Load, scratch: Scratch) -> torch.Tensor:
    """Σ w_i θ_i − (Σ w_i) θ₀: one operation a model, exact enough in float64 to be the same.

    The second sum is of models alone: stored vectors are differences already.
    """
    first, *others = formula.terms
    total = scratch.copy(load(first.model))
    if first.weight != 1:
        total.mul_(first.weight)
    operand = scratch.take(len(total))
    for term in others:
        total.add_(operand.copy_(load(term.model)), alpha=term.weight)
    weights = [term.weight for term in formula.terms if not term.is_difference]
    return total.add_(base, alpha=-sum(weights)) if weights else total


def _vector(
    formula: Formula, term: Term, base: torch.Tensor, load: Load, name: str
) -> torch.Tensor:
    """w Δ, sparse if the term says so."""
    vector = load(term.model).to(ACCUMULATOR) - (0 if term.is_difference else base)
    if term.density < 1:
        vector = _sparse(vector, formula, term, name)
    return vector.mul_(term.weight)


def _sparse(vector: torch.Tensor, formula: Formula, term: Term, name: str) -> torch.Tensor:
    """Keep `density` of the elements, by mergekit's rules for TIES and DARE."""
    from mergekit.sparsify import RescaleNorm, magnitude, rescaled_masked_tensor

    norm = RescaleNorm.l1 if formula.rescale else None
    if formula.sparsifier == Sparsifier.MAGNITUDE:
        return magnitude(vector, density=term.density, rescale_norm=norm).clone()
    generator = seeded(formula.seed, term.label, name)
    # Drawn on the CPU: the mask is then the same on every device.
    keep = torch.rand(vector.shape, generator=generator) < term.density
    mask = keep.to(device=vector.device, dtype=vector.dtype)
    return rescaled_masked_tensor(vector, mask, norm)


def seeded(seed: int, *parts: str) -> torch.Generator:
    """A generator whose stream depends on the seed and the parts only."""
    digest = hashlib.sha256("\0".join((str(seed), *parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True) >> 1)


def _total(vectors: Iterator[torch.Tensor]) -> torch.Tensor:
    total = next(vectors)
    for vector in vectors:
        total.add_(vector)
    return total


def _agreement(vectors: Iterator[torch.Tensor], threshold: float) -> torch.Tensor:
    """FedGMA: Σ v_i, times the agreement abs(Σ sign v_i)/n where that is below the threshold."""
    total = next(vectors)
    signs, count = total.sign(), 1
    for vector in vectors:
        signs.add_(vector.sign())
        total.add_(vector)
        count += 1
    agreement = signs.abs_().div_(count)
    return total.mul_(torch.where(agreement >= threshold, 1.0, agreement))


def _median(vectors: torch.Tensor) -> torch.Tensor:
    """Over the first axis; of an even number, the mean of the middle two."""
    ordered = vectors.sort(dim=0).values
    count = len(ordered)
    return (ordered[(count - 1) // 2] + ordered[count // 2]).div_(2)


def _elected(vectors: Callable[[], Iterator[torch.Tensor]], formula: Formula) -> torch.Tensor:
    """TIES: Σ of the elements that have the elected sign; a tie elects plus, as in mergekit.

    A mean divides by the sum of the weights of those elements (1 where it is 0), as mergekit does.
    """
    is_count = formula.election == Election.COUNT
    votes = _total(v.sign() if is_count else v for v in vectors())
    elected = torch.where(votes >= 0, 1.0, -1.0).to(votes.dtype)
    total, agreeing = torch.zeros_like(votes), torch.zeros_like(votes)
    for term, vector in zip(formula.terms, vectors(), strict=True):
        agrees = vector.sign() == elected
        total.add_(vector.mul_(agrees))
        agreeing.add_(agrees, alpha=term.weight)
    if not formula.is_mean:
        return total
    return total.div_(torch.where(agreeing == 0, 1.0, agreeing))
