"""The last layer of a classifier and what it takes: the features that a fair head is linear in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.errors import CheckpointError, FairError, first_line
from mergekit_fair.evaluation.evaluator import Evaluator, Scorer
from mergekit_fair.evaluation.predictions import Predictions
from mergekit_fair.progress import Progress

Array = NDArray[np.float64]

# How far scores from features may be from the model's own, as a share of the largest: those are
# rounded to the model's dtype, and come from other kernels.
_CLOSE = {"float32": 1e-3, "float64": 1e-6}
_ROUGH = 0.05  # bfloat16, float16
_CHECKED = 16  # rows
_AT_ONCE = 4096  # rows
_OWN_HEAD = "use a classifier of transformers' own whose head ends in one linear layer"


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A linear layer that gives a two-class model's logits, z = W f + b.

    Attributes:
        name: of the module: `classifier`, `classifier.out_proj`, `score`.
        weight: float64 (2, H).
        bias: float64 (2,); None for a head without (`score` of Llama, Qwen2).
        classes: the rows of W of the choices no and yes.
    """

    name: str
    weight: Array
    bias: Array | None
    classes: tuple[int, int]

    @classmethod
    def of(cls, model: Any, classes: tuple[int, int], where: object) -> LastLayer:
        """The layer of a transformers model: its last linear one with a row for every class.

        Raises:
            CheckpointError: there is none, or more than two classes.
        """
        import torch

        count = int(model.config.num_labels)
        if count != 2:
            raise CheckpointError(
                "has a head of more than two classes",
                where=where,
                got=count,
                allowed="two",
                fix="train a model of two classes",
            )
        found = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module.out_features == count
        ]
        if not found:
            raise CheckpointError(
                "has no linear layer that gives its logits, which a fair head changes",
                where=where,
                got=type(model).__name__,
                fix=_OWN_HEAD,
            )
        name, module = found[-1]
        bias = None if module.bias is None else _array(module.bias)
        return cls(name, _array(module.weight), bias, classes)

    @property
    def width(self) -> int:
        """H, the number of features."""
        return self.weight.shape[1]

    def gaps(self, features: NDArray[Any]) -> Array:
        """z_yes − z_no of features (n, H): (n,)."""
        no, yes = self.classes
        gaps = np.asarray(features, dtype=np.float64) @ (self.weight[yes] - self.weight[no])
        return gaps if self.bias is None else gaps + (self.bias[yes] - self.bias[no])

    def vector(self, weight: Array, bias: float) -> dict[str, Array]:
        """The tensors to add, so that the logit gap grows by weight · f + bias: half each way.

        A head without bias has no tensor for it: there `bias` must be 0.
        """
        no, yes = self.classes
        sides = np.zeros((2, 1))
        sides[no], sides[yes] = -0.5, 0.5
        tensors = {f"{self.name}.weight": sides * weight}
        if self.bias is not None:
            tensors[f"{self.name}.bias"] = sides[:, 0] * bias
        return tensors


def _array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().double().numpy())


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Rows of a split as a head sees them.

    Attributes:
        features: float32 (n, H).
        rows: labels, groups and the model's own scores.
    """

    features: NDArray[np.float32]
    rows: Predictions

    def take(self, chosen: NDArray[np.bool_]) -> FeatureRows:
        """Some of the rows, bool (n,)."""
        return FeatureRows(self.features[chosen], self.rows.take(chosen))


def read_features(
    evaluator: Evaluator,
    scorer: Scorer,
    splits: Sequence[str],
    where: object,
    progress: Progress,
) -> tuple[LastLayer, dict[str, FeatureRows]]:
    """One forward pass over the rows of splits; the model's last layer is applied afterwards.

    Args:
        evaluator: of a data description.
        scorer: with the model.
        splits: of train, validation and report.
        where: the model, for errors.
        progress: told how many rows are done.

    Raises:
        CheckpointError: no classifier of two classes, or one whose logits are no linear function
            of any layer's inputs.
        ScoreError: features that are NaN or infinite.
    """
    layer = _layer(scorer, where)
    (labels,) = evaluator.binary_labels(splits[0]).values()
    _require_linear(layer, scorer, splits[0], len(labels), where)
    found = {}
    for split in splits:
        (labels,) = evaluator.binary_labels(split).values()
        with _without(scorer.model, layer.name):
            features = scorer.outputs(split, layer.width, progress, f"{split} split")
        answered = np.asarray(np.isfinite(features).all(axis=1))
        gaps = np.full(len(features), np.nan)
        own = scorer.model.get_submodule(layer.name)
        gaps[answered] = gaps_by(own.weight, own.bias, features[answered], layer.classes)
        found[split] = FeatureRows(features, labels.with_scores(gaps))
    return layer, found


def gaps_by(
    weight: Any, bias: Any, features: NDArray[np.float32], classes: tuple[int, int]
) -> Array:
    """z_yes − z_no (n,) of logits that are rounded to the weights' dtype, as a model's are: in
    bfloat16 many decisions rest on that. NaN where one is not finite: there is no answer.

    Args:
        weight, bias: tensors (2, H) and (2,), or no bias.
        features: (n, H).
        classes: the rows of the choices no and yes.
    """
    import torch

    no, yes = classes
    gaps = np.zeros(len(features))
    with torch.inference_mode():
        for start in range(0, len(features), _AT_ONCE):
            part = torch.from_numpy(features[start : start + _AT_ONCE]).to(weight)
            logits = torch.nn.functional.linear(part, weight, bias).float().cpu().numpy()
            logits[~np.isfinite(logits).all(axis=1)] = np.nan
            gaps[start : start + len(part)] = logits[:, yes] - logits[:, no]
    return gaps


def _require_linear(
    layer: LastLayer, scorer: Scorer, split: str, count: int, where: object
) -> None:
    """Check on a few rows of `count` that the layer alone stands between what it takes and scores.

    Without it, a model that has two heads or does something to its logits gives other scores, or
    does not run.
    """
    rows = np.unique(np.linspace(0, count - 1, _CHECKED).astype(np.int64))
    (own,) = scorer.score(split, rows).values()
    module = scorer.model.get_submodule(layer.name)
    try:
        with _without(scorer.model, layer.name):
            features = scorer.outputs(split, layer.width, rows=rows)
        ours = gaps_by(module.weight, module.bias, features, layer.classes)
    except (FairError, MemoryError):
        raise
    except Exception as error:  # whatever a model's code makes of features in the place of logits
        raise CheckpointError(
            f"its logits are not those of its last linear layer ({first_line(error)})",
            where=where,
            got=layer.name,
            fix=_OWN_HEAD,
        ) from error
    dtype = str(module.weight.dtype).removeprefix("torch.")
    known = np.isfinite(own)
    size = float(np.abs(own[known]).max(initial=1.0))
    away = float(np.abs(own - ours)[known].max()) if known.any() else float("nan")
    if not away <= _CLOSE.get(dtype, _ROUGH) * size:
        raise CheckpointError(
            "its logits are no linear function of what its last layer takes",
            where=where,
            got=f"{layer.name}, {away:.3g} apart",
            fix=_OWN_HEAD,
        )


def _layer(scorer: Scorer, where: object) -> LastLayer:
    choices = scorer.lm.choices.of(["no", "yes"])
    return LastLayer.of(scorer.model, (choices["no"], choices["yes"]), where)


@contextmanager
def _without(model: Any, name: str) -> Iterator[None]:
    """The model without its last layer: what it takes comes out as logits."""
    import torch

    parent, _, leaf = name.rpartition(".")
    owner = model.get_submodule(parent)
    layer = getattr(owner, leaf)
    setattr(owner, leaf, torch.nn.Identity())
    try:
        yield
    finally:
        setattr(owner, leaf, layer)
