"""Rows become model inputs: tokenised once, or pictures opened batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mergekit_fair.errors import CheckpointError, DataError, first_line

if TYPE_CHECKING:
    import torch

    from mergekit_fair.data import Rows


class ModelInputs(Protocol):
    """What training and prediction need of the rows.

    Attributes:
        lengths: cost of each row (tokens), used to batch rows of like length.
    """

    lengths: tuple[int, ...]

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

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        pictures = [_rgb(self._pictures[index]) for index in indices]
        return dict(self._processor(images=pictures, return_tensors="pt"))


def _rgb(picture: Any) -> Any:
    from PIL import Image

    try:
        if isinstance(picture, Image.Image):
            return picture.convert("RGB")
        with Image.open(picture) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise DataError(f"is not a readable picture ({error})", where=picture) from error


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
    except (OSError, ValueError, KeyError) as error:
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
    if folder.is_dir() and not any(any(folder.glob(name)) for name in _PROCESSOR_FILES[kind]):
        what = "image processor" if kind == "image" else "tokenizer"
        raise _no_processor(model_folder, what, "none of its files is there")


def _no_processor(model_folder: str | Path, what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"has no {what} ({why})", where=model_folder, fix=f"save the {what} beside the model"
    )
