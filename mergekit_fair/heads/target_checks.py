"""Which models a fair head can be fitted on: classifiers that run as a merge of them will."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mergekit_fair.checkpoints.adapter_config import is_adapter_folder
from mergekit_fair.checkpoints.folder import (
    architecture_of,
    read_config,
    require_no_vector,
    sibling,
)
from mergekit_fair.data import DataSpec
from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.classifier import backend_of

if TYPE_CHECKING:
    import torch


def require_classifier(model: str, data: object, *, trusts_remote_code: bool) -> None:
    """Check that a head can be fitted on a model.

    Args:
        model: its folder.
        data: a data description, or names of tasks, which are refused elsewhere.
        trusts_remote_code: whether a model may bring code of its own.

    Raises:
        CheckpointError: there is no such folder, or it is an adapter, a task vector, or no
            classifier, or one of pictures where the data are texts, or of texts.
    """
    if is_adapter_folder(model):
        raise CheckpointError(
            "is an adapter, and a head is fitted on a whole model",
            where=model,
            fix="merge it into its base first (a recipe of BASE+ADAPTER, and `merge`)",
        )
    if not Path(model).is_dir():
        raise CheckpointError(
            f"no such model folder{sibling(Path(model))}",
            where=model,
            fix="give the folder of a classifier; one on the Hub has to be downloaded first: "
            "`hf download NAME --local-dir FOLDER`",
        )
    require_no_vector(model)
    kind, _ = backend_of(model, trust_remote_code=trusts_remote_code)
    if kind not in ("fair-classifier", "fair-image-classifier"):
        raise CheckpointError(
            "is no classifier, and only the head of one can be made fair",
            where=model,
            got=architecture_of(read_config(model)),
            allowed="…ForSequenceClassification, …ForImageClassification",
            fix="fine-tune the model as a classifier of two classes",
        )
    if isinstance(data, DataSpec) and (data.image is None) != (kind == "fair-classifier"):
        raise CheckpointError(
            f"is no classifier of what the data set {data.name!r} holds",
            where=model,
            got=architecture_of(read_config(model)),
            allowed=f"…For{'Sequence' if data.image is None else 'Image'}Classification",
            fix="give another model, or another data description",
        )


def require_dtype(model: str, stored: str | None, used: torch.dtype) -> None:
    """Check that a model is run in the dtype of its weights: what is merged of them will be.

    Raises:
        CheckpointError: its config.json says another.
    """
    name = str(used).removeprefix("torch.")
    if stored != name:
        raise CheckpointError(
            "its config.json has it run in another dtype than most of its weights are stored in, "
            "in which a merge of it is run",
            where=model,
            got=f"{name}, of weights in {stored}",
            fix="save it in one of the two, as by from_pretrained(MODEL, dtype=...)"
            ".save_pretrained(FOLDER)",
        )
