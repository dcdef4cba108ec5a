"""The systems that `studies.py --laboratory` puts beside plain addition and the fair head."""

from __future__ import annotations

from dataclasses import dataclass

# Kinds of training on all rows → what tables call them.
FURTHER_TRAINED = {"reweight": "reweighing", "dro": "group DRO"}


@dataclass(frozen=True)
class SweptSystem:
    """What is merged with one λ for all groups, chosen as for plain addition.

    Attributes:
        shown: what tables call it.
        folder: that its commands, or a training of a kind, make.
        recipe: over which λ is chosen.
        commands: without their output.
        kind: of the subgroups' training; "" is the study's.
        method: that takes the place of the recipe's; "" is the recipe's own.
    """

    shown: str
    folder: str
    recipe: str
    commands: tuple[tuple[str, ...], ...] = ()
    kind: str = ""
    method: str = ""


_DATA = ("--data", "data.yml")
SWEPT = {
    "awd": SweptSystem("AWD", "models", "models/addition.yml", method="awd"),
    "pave": SweptSystem(
        "PAVE", "pure", "pure/recipe.yml", (("purify", "models/addition.yml", *_DATA),)
    ),
    "talos": SweptSystem("TaLoS", "of_talos", "of_talos/addition.yml", kind="talos"),
    "sparse": SweptSystem("sparse training", "of_sparse", "of_sparse/addition.yml", kind="sparse"),
    "tangent": SweptSystem(
        "tangent space", "of_tangent", "of_tangent/addition.yml", kind="tangent"
    ),
}
# λ by gradient: name → what tables call it, options of `learn`.
LEARNED_AS = {
    "learn_loss": "aTLAS (loss, per tensor)",
    "learn_eod": "learned (EOD, per tensor)",
    "learn_model": "learned (loss, per model)",
    "learn_entropy": "AdaMerging (entropy, per tensor)",
    "learn_rounds": "DV-BASI (loss, two rounds)",
    "learn_posterior": "spike and slab (loss, per tensor)",
}
LEARNED = {
    "learn_loss": (),
    "learn_eod": ("--objective", "eod"),
    "learn_model": ("--per", "model"),
    "learn_entropy": ("--objective", "entropy"),
    "learn_rounds": ("--rounds", "1", "--epochs", "2"),
    "learn_posterior": ("--posterior", "spike-and-slab"),
}
