"""What a merge computes, tensor by tensor, and what it may do beside mergekit's options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from mergekit_fair.merging.methods.formula import Coefficients, Formula


@dataclass(frozen=True)
class MergeSettings:
    """What a merge may do beside mergekit's options.

    Attributes:
        overwrite: replace an output that its manifest accounts for, or an empty folder.
        allow_pickle: read pickled weights where a model has no others.
        hash_inputs: put the SHA-256 of every input file into the manifest.
        lambdas: write one model for each of these λ instead of the recipe's.
        as_adapter: write a LoRA adapter over the base instead of a whole model.
        hard_links: let the models of a grid share the files that no λ changes as one file.
    """

    overwrite: bool = False
    allow_pickle: bool = False
    hash_inputs: bool = False
    lambdas: tuple[float, ...] | None = None
    as_adapter: bool = False
    hard_links: bool = False


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the merged model.

    Attributes:
        name, shape: the base's.
        compute_dtype: the dtype that inputs are converted to and the result is rounded to.
        dtype: the dtype in the file.
        formula: at the recipe's λ.
        scales: the formula's scale in each output of a grid; one without a grid.
        must_match: models whose tensor has to be the start's (integers).
        cast: models whose dtype `compute_dtype` cannot hold: mergekit rounds such inputs first.
    """

    name: str
    shape: tuple[int, ...]
    compute_dtype: torch.dtype
    dtype: torch.dtype
    formula: Formula
    scales: tuple[float, ...]
    must_match: tuple[str, ...] = ()
    cast: frozenset[str] = frozenset()

    @cached_property
    def active_formula(self) -> Formula:
        """The formula with a scale that moves it if any output moves."""
        return self.formula.scaled(next((s for s in self.scales if s != 0), 0.0))

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are read for it."""
        return tuple(dict.fromkeys((*map(str, self.active_formula.models), *self.must_match)))


@dataclass(frozen=True)
class MergeProgram:
    """What a merge computes.

    Attributes:
        tensors: in mergekit's order.
        coefficients: λ_g of every vector, of the recipe's own λ.
        lambdas: of the outputs of a grid, else None.
    """

    tensors: tuple[OutputTensor, ...]
    coefficients: Coefficients
    lambdas: tuple[float, ...] | None = None
