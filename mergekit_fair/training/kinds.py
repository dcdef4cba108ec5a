"""Kinds of fine-tuning, by their settings. A new one is a class and its line in `KINDS`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mergekit_fair.errors import TrainingError
from mergekit_fair.merging.methods.head_policy import HEAD_MODULES, is_head
from mergekit_fair.schema import Strict
from mergekit_fair.training.group_cells import group_members, reweighing

if TYPE_CHECKING:
    from mergekit_fair.data import Rows

# What is kept of a model: all its weights, or the adapter that was trained, beside its base.
Kept = Literal["model", "adapter"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Material:
    """What a kind may know of a run before it begins.

    Attributes:
        rows: of the run.
        sample: n → n of the rows, or as many as there are, each by itself as the model's arguments
            without its label; drawn by the run's seed.
    """

    rows: Rows
    sample: Callable[[int], Iterator[dict[str, Any]]]


# Query and value projections as transformers names them: BERT, RoBERTa, ViT (query, value);
# DistilBERT (q_lin, v_lin); Llama, Qwen2, Gemma, DeBERTa-v2 (…_proj); T5 (q, v); GPT-2 (c_attn).
_QUERY_AND_VALUE = frozenset(
    {
        *("query", "value", "q_lin", "v_lin", "q_proj", "v_proj"),
        *("query_proj", "value_proj", "q", "v", "c_attn", "query_key_value"),
    }
)


def lora_targets(model: Any, wanted: list[str] | None = None) -> list[str]:
    """The last name components of the layers to adapt, sorted.

    Args:
        model: a transformers classifier.
        wanted: names from the recipe; None finds the attention's query and value projections.

    Raises:
        TrainingError: a wanted name does not exist, or none is found; lists the linear layers.
    """
    linear = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if type(module).__name__ in ("Linear", "Conv1D") and not is_head(name)
        }
    )
    targets = [name for name in linear if name in (wanted or _QUERY_AND_VALUE)]
    missing = sorted(set(wanted or ()) - set(targets))
    if missing or not targets:
        raise TrainingError(
            "lora.targets are not in the model" if missing else "no attention layers are known",
            where=type(model).__name__,
            got=missing or None,
            allowed=linear,
            fix="name the layers to adapt under lora.targets",
        )
    return targets


class TrainingKind(Strict):
    """How a model is made ready to train, and how it becomes full weights again.

    Attributes:
        learning_rate: of AdamW; None is `training.learning_rate`.
        epochs: of the model of all rows; None is `training.epochs`.
    """

    learning_rate: Positive | None = None
    epochs: Positive | None = None

    of_all_rows: ClassVar[bool] = False  # not for the rows of one group
    has_own_loss: ClassVar[bool] = False  # which label smoothing would leave out

    def columns(self, rows: Rows) -> dict[str, NDArray[np.float32]]:
        """What a batch holds beside inputs and labels: name → (n, …), of all training rows.

        Raises:
            TrainingError: rows that this kind cannot be trained on.
        """
        del rows
        return {}

    def prepare(self, model: Any, material: Material) -> Any:
        """The model to train, made of the base.

        Args:
            model: the base.
            material: what the run is trained on.
        """
        del material
        return model

    def full_weights(self, model: Any, folder: Path) -> Any:
        """A model that transformers saves whole; what else is worth keeping goes into `folder`."""
        del folder
        return model

    def facts(self, model: Any) -> dict[str, Any]:
        """What train.json says of a trained model beside what it says of all."""
        del model
        return {}


class FullFineTuning(TrainingKind):
    """Every weight is trained."""


class Lora(TrainingKind):
    """LoRA (peft, arXiv 2106.09685); the classification head is trained in full.

    Attributes:
        targets: names of the linear layers to adapt; None finds the attention's query and value.
        keep: of the LoRA baseline; groups' models have their own.
    """

    learning_rate: Positive | None = 3e-4  # a full fine-tune's is too small for an adapter
    rank: Annotated[int, Field(gt=0)] = 8
    alpha: Positive = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: list[str] | None = None
    keep: Kept = "model"

    def prepare(self, model: Any, material: Material) -> Any:
        """The model with a fresh adapter."""
        del material
        from peft import LoraConfig, get_peft_model

        names = {name.split(".", 1)[0] for name, _ in model.named_parameters()}
        adapted = get_peft_model(
            model,
            LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                target_modules=lora_targets(model, self.targets),
                modules_to_save=sorted(names & HEAD_MODULES),
            ),
        )
        if Path(base := str(model.name_or_path)).is_dir():  # found from anywhere
            adapted.peft_config["default"].base_model_name_or_path = str(Path(base).resolve())
        return adapted

    def full_weights(self, model: Any, folder: Path) -> Any:
        """Merged, with the adapter itself beside it in `adapter/`."""
        model.save_pretrained(folder / "adapter")
        return copy.deepcopy(model).merge_and_unload()


class PartialTraining(TrainingKind):
    """A kind whose model is a `PartlyTrained`."""

    def full_weights(self, model: Any, folder: Path) -> Any:
        """The base with the weights that the model stands for."""
        del folder
        return model.whole()


class Talos(PartialTraining):
    """TaLoS (arXiv 2504.02620): only the weights that predictions depend on least are trained.

        θ_j = θ₀_j but for the `share` of weights with the least F_j
        F_j = mean over rows of (∂ log p(ŷ|x; θ₀) / ∂θ_j)²,  ŷ ~ p(·|x; θ₀)

    All others stay what they are in the base, to the bit. The head is chosen from like every other
    layer: a head that is trained whole would move every group's scores with each group's model.
    Tables of embeddings are never trained, as in the authors' code.

    Attributes:
        share: of all weights outside tables of embeddings, above 0 and at most 1.
        rows: of the run, on which F is measured: train rows, drawn by its seed, without labels.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    rows: Annotated[int, Field(gt=0)] = 256

    def prepare(self, model: Any, material: Material) -> Any:
        """A `ChosenWeights`."""
        from mergekit_fair.training.part_models import ChosenWeights
        from mergekit_fair.training.sensitivity import fisher_scores, least_sensitive

        scores = fisher_scores(model, material.sample(self.rows), seed=0)
        return ChosenWeights(model, least_sensitive(scores, self.share))

    def facts(self, model: Any) -> dict[str, Any]:
        """`trained`: the number of weights that were."""
        return {"trained": sum(each.numel() for each in model.parameters() if each.requires_grad)}


class SparseTraining(PartialTraining):
    """Task-specific sparse parameters: θ = θ₀ + z ∘ δ with gates z that are learned, too.

    A gate for every weight is diff pruning (Guo et al., arXiv 2012.07463). One for every layer, for
    its weight and bias together, is what TAPS does (Wallingford et al., arXiv 2203.16708), there
    with a threshold and a straight-through gradient. Weights behind a gate that has closed are the
    base's to the bit.

    Attributes:
        gates: `weight` or `layer`.
        penalty: what the loss is charged for changing every weight; for a share of them that share.
            The larger, the more gates close.
        gate_learning_rate: of the gates' log-odds, which start at 2 and are closed below −2.4.
    """

    has_own_loss: ClassVar[bool] = True

    gates: Literal["weight", "layer"] = "weight"
    penalty: Positive = 1.0
    gate_learning_rate: Positive = 0.1

    def prepare(self, model: Any, material: Material) -> Any:
        """A `GatedWeights`."""
        import torch

        from mergekit_fair.training.part_models import GatedWeights

        del material
        assert self.learning_rate is not None
        gates = {}
        for name, each in model.named_parameters():
            gate = f"{name.rpartition('.')[0]}.gate".lstrip(".")
            is_weight = self.gates == "weight"
            gates[name] = (name, each.shape) if is_weight else (gate, torch.Size())
        speed = self.gate_learning_rate / self.learning_rate
        return GatedWeights(model, gates, self.penalty, speed)

    def facts(self, model: Any) -> dict[str, Any]:
        """`open`: the share of weights whose gate has not closed."""
        return {"open": model.open_share()}


class TangentTraining(PartialTraining):
    """Fine-tuning in the tangent space (arXiv 2305.12827): of a model linear in its weights.

        f(x; θ) = f(x; θ₀) + (θ − θ₀)ᵀ ∇f(x; θ₀)

    θ is saved as ordinary weights, which an ordinary forward pass takes for another model: that of
    the paper is measured with `model_args: {linear_at: BASE}`.
    """

    def prepare(self, model: Any, material: Material) -> Any:
        """A `TangentWeights`."""
        from mergekit_fair.training.part_models import TangentWeights

        del material
        return TangentWeights(model)


class WeightedTraining(TrainingKind):
    """A kind that weighs rows by their groups: on all rows, never on those of one group."""

    of_all_rows: ClassVar[bool] = True
    has_own_loss: ClassVar[bool] = True

    def full_weights(self, model: Any, folder: Path) -> Any:
        """The model that was trained."""
        del folder
        return model.model


class Reweight(WeightedTraining):
    """Reweighing (Kamiran and Calders): w(g, y) = P(g) P(y) / P(g, y), see `reweighing`."""

    def columns(self, rows: Rows) -> dict[str, NDArray[np.float32]]:
        """`row_weights`, (n, L)."""
        return {"row_weights": reweighing(rows).astype(np.float32)}

    def prepare(self, model: Any, material: Material) -> Any:
        """A `RowWeighted`."""
        from mergekit_fair.training.row_losses import RowWeighted

        del material
        return RowWeighted(model)


class Dro(WeightedTraining):
    """Group DRO (arXiv 1911.08731): the loss of the worst groups, followed by weights q.

    Groups are the data's, and the rows of none; a row of several counts in each. See `GroupRobust`.

    Attributes:
        step: η, how fast q follows: q_g ← q_g exp(η ℓ_g).
        adjustment: C of the C / √n_g that is added to a group's loss for q.
    """

    step: Positive = 0.01
    adjustment: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def columns(self, rows: Rows) -> dict[str, NDArray[np.float32]]:
        """`row_groups`, (n, G)."""
        return {"row_groups": np.stack(list(group_members(rows).values()), 1).astype(np.float32)}

    def prepare(self, model: Any, material: Material) -> Any:
        """A `GroupRobust`."""
        from mergekit_fair.training.row_losses import GroupRobust

        sizes = {name: int(of.sum()) for name, of in group_members(material.rows).items()}
        return GroupRobust(model, sizes, len(material.rows), self.step, self.adjustment)

    def facts(self, model: Any) -> dict[str, Any]:
        """`q`: the groups' weights at the end."""
        return {"q": model.group_weights()}


KINDS: dict[str, type[TrainingKind]] = {
    "fft": FullFineTuning,
    "lora": Lora,
    "talos": Talos,
    "sparse": SparseTraining,
    "tangent": TangentTraining,
    "reweight": Reweight,
    "dro": Dro,
}
