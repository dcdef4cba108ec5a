"""What a merge computes, tensor by tensor, and what it may do beside mergekit's options."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mergekit_fair.merging.methods.formula import Coefficients, Formula, Formulas


@dataclass(frozen=True)
class MergeSettings:
    """What a merge may do beside mergekit's options.

    Attributes:
        overwrite: replace an output that its manifest accounts for, or an empty folder.
        allow_pickle: read pickled weights where a model has no others.
        hash_inputs: put the SHA-256 of every input file into the manifest.
        as_adapter: write a LoRA adapter over the base instead of a whole model.
        hard_links: let the models of a grid share the files that no λ changes as one file.
    """

    overwrite: bool = False
    allow_pickle: bool = False
    hash_inputs: bool = False
    as_adapter: bool = False
    hard_links: bool = False


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of the merged model.

    Attributes:
        name, shape: the base's.
        compute_dtype: the dtype that inputs are converted to and the result is rounded to.
        dtype: the dtype in the file.
        formulas: one for each output.
        must_match: models whose tensor has to be the start's (integers).
        cast: models whose dtype `compute_dtype` cannot hold: mergekit rounds such inputs first.
    """

    name: str
    shape: tuple[int, ...]
    compute_dtype: torch.dtype
    dtype: torch.dtype
    formulas: Formulas
    must_match: tuple[str, ...] = ()
    cast: frozenset[str] = frozenset()

    @property
    def formula(self) -> Formula:
        """Of the first output, which is the only one of a merge."""
        return self.formulas.each[0]

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are read for it."""
        return tuple(dict.fromkeys((*map(str, self.formulas.models), *self.must_match)))


@dataclass(frozen=True)
class MergeProgram:
    """What a merge computes.

    Attributes:
        tensors: in mergekit's order.
        coefficients: λ_g of every vector, of the first output.
    """

    tensors: tuple[OutputTensor, ...]
    coefficients: Coefficients
