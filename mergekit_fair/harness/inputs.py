"""Rows become model inputs: tokenised once, or pictures opened batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mergekit_fair.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import torch

    from mergekit_fair.data import Rows


class Inputs(Protocol):
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


class ImageInputs:
    """Pictures, opened and processed when their batch is asked for."""

    def __init__(self, paths: Sequence[str], processor: Any) -> None:
        self._paths = tuple(paths)
        self._processor = processor
        self.lengths = (1,) * len(self._paths)

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        from PIL import Image

        pictures = []
        for index in indices:
            try:
                with Image.open(self._paths[index]) as picture:
                    pictures.append(picture.convert("RGB"))
            except OSError as error:
                raise DataError(
                    f"is not a readable picture ({error})", where=self._paths[index]
                ) from None
        return dict(self._processor(images=pictures, return_tensors="pt"))


def open_inputs(rows: Rows, model_folder: str | Path, max_length: int) -> Inputs:
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


def load_processor(model_folder: str | Path, kind: str) -> Any:
    """A tokenizer with a padding token (`text`) or an image processor (`image`).

    Raises:
        CheckpointError: there is none in the folder.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    auto, what = (
        (AutoImageProcessor, "image processor") if kind == "image" else (AutoTokenizer, "tokenizer")
    )
    folder = Path(model_folder)
    try:
        if folder.is_dir() and not any(any(folder.glob(name)) for name in _PROCESSOR_FILES[kind]):
            raise OSError("none of its files is there")
        processor = auto.from_pretrained(str(model_folder))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"has no {what} ({str(error).splitlines()[0]})",
            where=model_folder,
            fix=f"save the {what} beside the model",
        ) from None
    if kind == "text" and processor.pad_token is None:
        processor.pad_token = processor.eos_token
    return processor
