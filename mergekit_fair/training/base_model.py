"""The base θ₀: a pretrained encoder with its classification head, saved before any fine-tune.

Every model of a family starts from this folder, so that task vectors hold what fine-tuning
learned and no difference of random heads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_fair.checkpoints.folder import require_no_vector
from mergekit_fair.checkpoints.quantization import quantization
from mergekit_fair.checkpoints.trained_rows import TrainedRows
from mergekit_fair.data import package_file
from mergekit_fair.errors import CheckpointError
from mergekit_fair.evaluation.classifier import auto_class, opening
from mergekit_fair.evaluation.model_inputs import load_processor, open_inputs, position_limit
from mergekit_fair.evaluation.truncation import require_length
from mergekit_fair.training.probe import fit_probe
from mergekit_fair.training.train_config import TrainConfig

if TYPE_CHECKING:
    from mergekit_fair.data import Rows
    from mergekit_fair.evaluation.model_inputs import ModelInputs


# The choices of the task suite, so that an evaluation knows which class is which.
CLASSES = ("no", "yes")


def model_source(config: TrainConfig) -> str:
    """The folder or Hub id of `model:`; checks its sha256 where one is given.

    Raises:
        CheckpointError: the weights are not those that the file names, or a task vector.
        DataError: the package is not installed.
    """
    source = config.model
    if source.startswith("package:"):
        _, module, file = [*source.split(":", 2), ""][:3]
        source = str(package_file(module, file))
    require_no_vector(source)
    if config.sha256 is not None:
        weights = Path(source) / "model.safetensors"
        if not weights.is_file():
            raise CheckpointError("no weights to check the sha256 of", where=weights)
        digest = file_sha256(weights)
        if digest != config.sha256:
            raise CheckpointError(
                "these are not the weights that the training file names",
                where=weights,
                got=digest,
                allowed=config.sha256,
            )
    return source


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def head_config(rows: Rows) -> dict[str, Any]:
    """What a model's config says of its outputs: one for each class, or for each label.

    >>> import numpy as np
    >>> from mergekit_fair.data import Rows
    >>> rows = Rows("comments", "text", ("a",), np.zeros((1, 2), np.int8), (), frozenset(),
    ...             np.ones((1, 0), bool), np.array(["train"]), np.arange(1),
    ...             label_names=("toxic", "threat"))
    >>> head_config(rows)["label2id"], head_config(rows)["problem_type"]
    ({'toxic': 0, 'threat': 1}, 'multi_label_classification')
    """
    names = rows.label_names or CLASSES
    config = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    # Of one class a row transformers finds out by itself, and earlier versions said nothing.
    is_multi = rows.label_kind == "labels"
    return config | ({"problem_type": "multi_label_classification"} if is_multi else {})


def build_base(
    config: TrainConfig, rows: Rows, out: Path, device: str, seen: TrainedRows | None = None
) -> ModelInputs | None:
    """Save the base model with its head, and its tokenizer or image processor, in `out`.

    In float32, whatever the source is stored in: near 0.02 neighbouring numbers of bfloat16 are
    1.2e-4 apart, so that steps of 1e-5 would be rounded away (in float16, 1.5e-5: rounded).

    Args:
        config: of the training folder.
        rows: all training rows; the probe is fitted on them.
        out: an existing empty folder.
        device: where the probe's features are computed.
        seen: what is written about the rows that the probe is fitted on.

    Returns:
        The rows' inputs, if a probe was fitted on them.

    Raises:
        CheckpointError: the source is not a model that takes a head of so many outputs.
        ConfigError: a max_length that the model cannot take.
    """
    import torch
    from transformers import set_seed

    source = model_source(config)
    set_seed(config.seed)
    with opening(source, f"cannot be loaded as a {rows.kind} classifier"):
        model = auto_class(rows.kind).from_pretrained(
            source, dtype=torch.float32, **head_config(rows)
        )
    if method := quantization(Path(source), model.config.to_dict()):
        raise CheckpointError(
            f"is quantised ({method}); a family is trained and saved in full weights",
            where=source,
            fix="use the model as it was before",
        )
    processor = load_processor(source, rows.kind)
    if rows.kind == "text":
        special = processor.num_special_tokens_to_add()
        require_length(config.max_length, position_limit(model), special)
        # Kept with every model that is trained from this one: evaluation takes it from there.
        processor.model_max_length = config.max_length
        if model.config.pad_token_id is None:
            model.config.pad_token_id = processor.pad_token_id
    inputs = None
    if config.head == "probe":
        inputs = open_inputs(rows, source, config.max_length)
        fit_probe(model.to(device), rows, inputs, source, device)
        (seen or TrainedRows.of(rows)).write(out)
    model.to("cpu").save_pretrained(out)
    processor.save_pretrained(out)
    return inputs
