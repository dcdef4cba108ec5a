"""Rows become model inputs: tokenised once, or pictures opened batch by batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mergekit_fair.checkpoints.folder import require_no_vector
from mergekit_fair.data.images import open_image
from mergekit_fair.errors import CheckpointError, first_line

if TYPE_CHECKING:
    import torch

    from mergekit_fair.data import Rows


class ModelInputs(Protocol):
    """What training and prediction need of the rows.

    Attributes:
        lengths: cost of each row (tokens), used to batch rows of like length.
        is_cut: bool (n,), the rows that were longer; None where there is nothing to cut.
    """

    lengths: tuple[int, ...]
    is_cut: NDArray[np.bool_] | None

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The model's keyword arguments for these rows, padded to the longest of them."""
        ...


class TextInputs:
    """Token ids of every row, truncated to `max_length`; padded per batch."""

    def __init__(self, texts: Sequence[str], tokenizer: Any, max_length: int) -> None:
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
        self._tokenizer = tokenizer
        self._columns = {key: encoded[key] for key in encoded}
        self.lengths = tuple(len(ids) for ids in encoded["input_ids"])
        self.is_cut: NDArray[np.bool_] | None = self._cut(texts, max_length)

    def _cut(self, texts: Sequence[str], max_length: int) -> NDArray[np.bool_]:
        """Only a row that is as long as it may be can have been longer."""
        is_cut = np.array(self.lengths, dtype=np.int64) >= max_length
        full = np.flatnonzero(is_cut).tolist()
        if full:
            whole = self._tokenizer([texts[row] for row in full], truncation=False, verbose=False)
            is_cut[full] = [len(ids) > max_length for ids in whole["input_ids"]]
        return is_cut

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        picked = {key: [column[i] for i in indices] for key, column in self._columns.items()}
        return dict(self._tokenizer.pad(picked, return_tensors="pt"))

    def last_tokens(self) -> frozenset[int]:
        """The ids that texts end with."""
        return frozenset(ids[-1] for ids in self._columns["input_ids"] if ids)


class ImageInputs:
    """Pictures, by path or as PIL images; opened and processed when their batch is asked for."""

    def __init__(self, pictures: Sequence[Any], processor: Any) -> None:
        self._pictures = tuple(pictures)
        self._processor = processor
        self.lengths = (1,) * len(self._pictures)
        self.is_cut: NDArray[np.bool_] | None = None

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        pictures = [open_image(self._pictures[index]) for index in indices]
        return dict(self._processor(images=pictures, return_tensors="pt"))


def open_inputs(rows: Rows, model_folder: str | Path, max_length: int) -> ModelInputs:
    """The rows' inputs, by the tokenizer or image processor that lies in a model folder.

    Raises:
        CheckpointError: the folder has no tokenizer or image processor.
    """
    if rows.kind == "image":
        return ImageInputs(rows.inputs, load_processor(model_folder, "image"))
    return TextInputs(rows.inputs, load_processor(model_folder, "text"), max_length)


# transformers makes an empty tokenizer, without a word, of a folder that holds none.
_PROCESSOR_FILES = {
    "text": ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "*.model"),
    "image": ("preprocessor_config.json", "processor_config.json"),
}


def load_processor(model_folder: str | Path, kind: str, **options: Any) -> Any:
    """A tokenizer with a padding token (`text`) or an image processor (`image`).

    Args:
        model_folder: or a name on the Hub.
        kind: `text` or `image`.
        options: of transformers' `from_pretrained`.

    Raises:
        CheckpointError: there is none in the folder.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    auto, what = (
        (AutoImageProcessor, "image processor") if kind == "image" else (AutoTokenizer, "tokenizer")
    )
    require_processor(model_folder, kind)
    try:
        processor = auto.from_pretrained(str(model_folder), **options)
    except Exception as error:  # a damaged file raises whatever its class makes of it
        raise _no_processor(model_folder, what, first_line(error)) from error
    if kind == "text" and processor.pad_token is None:
        processor.pad_token = processor.eos_token
    return processor


def require_processor(model_folder: str | Path, kind: str) -> None:
    """A folder holds the files of a tokenizer or image processor; a name on the Hub passes.

    Raises:
        CheckpointError: none of them is there.
    """
    folder = Path(model_folder)
    require_no_vector(folder)
    if folder.is_dir() and not any(any(folder.glob(name)) for name in _PROCESSOR_FILES[kind]):
        what = "image processor" if kind == "image" else "tokenizer"
        raise _no_processor(model_folder, what, "none of its files is there")


def tokenizer_identity(tokenizer: Any) -> str:
    """A digest of what a tokenizer does, as it was loaded."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # A call leaves its truncation and padding behind; every call sets them anew.
        whole = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        whole = {"class": type(tokenizer).__qualname__, "vocabulary": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def same_tokenizer(base: str | Path, other: str | Path) -> bool:
    """Whether two folders' tokenizers do the same; one without a tokenizer has the other's."""
    folders = (Path(base), Path(other))
    files = [folder / "tokenizer.json" for folder in folders]
    if all(file.is_file() for file in files) and len({file.read_bytes() for file in files}) == 1:
        return True
    if not all(any(any(folder.glob(n)) for n in _PROCESSOR_FILES["text"]) for folder in folders):
        return True
    first, second = (load_processor(folder, "text") for folder in folders)
    return tokenizer_identity(first) == tokenizer_identity(second)


def _no_processor(model_folder: str | Path, what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"has no {what} ({why})", where=model_folder, fix=f"save the {what} beside the model"
    )


# The ends of the names of learned tables of positions.
_POSITIONS = ("position_embeddings", "embed_positions", "wpe")


def position_limit(model: Any) -> int | None:
    """Tokens that a model has positions for; None where positions are computed.

    RoBERTa and its like count positions from the padding's number on: of 514 rows, 512 are usable.
    """
    import torch

    for name, module in model.named_modules():
        if name.endswith(_POSITIONS) and isinstance(module, torch.nn.Embedding):
            padding = module.padding_idx
            used = getattr(module, "offset", 0) if padding is None else padding + 1
            return int(module.num_embeddings - used)
    return None
