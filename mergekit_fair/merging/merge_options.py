"""How a merge runs: the options of `mergekit-yaml`, without mergekit.

Importing mergekit's own class imports peft and most of transformers; a test compares both.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_RICH = ("cuda", "low_cpu_memory", "read_to_gpu", "multi_gpu")
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}


class MergeOptions(BaseModel):
    """mergekit's fields and defaults; mergekit's own object may stand in its place anywhere."""

    model_config = ConfigDict(frozen=True)

    allow_crimes: bool = False
    unsafe_truncate_embeddings: bool = False
    transformers_cache: str | None = None
    lora_merge_cache: str | None = None
    lora_merge_dtype: str | None = None
    cuda: bool = False
    device: str | None = None
    low_cpu_memory: bool = False
    out_shard_size: int = 5 * 10**9
    copy_tokenizer: bool = True
    clone_tensors: bool = False
    trust_remote_code: bool = False
    random_seed: int | None = None
    lazy_unpickle: bool = False
    write_model_card: bool = True
    safe_serialization: bool = True
    verbosity: int = 0
    quiet: bool = False
    read_to_gpu: bool = False
    multi_gpu: bool = False
    num_threads: int | None = None
    gpu_rich: bool = False
    async_write: bool = False
    write_threads: int = 1

    @model_validator(mode="before")
    @classmethod
    def _settle_device(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.get("gpu_rich"):
            value = {**value, **dict.fromkeys(_RICH, True)}
        device = value.get("device") or ("cuda" if value.get("cuda") else "cpu")
        return {**value, "device": _best_device() if device == "auto" else device}

    def apply_global_options(self) -> None:
        """Set the level of logging, seeds and torch's threads, where they are given."""
        levels = (logging.WARNING, logging.INFO, logging.DEBUG)
        logging.basicConfig(level=levels[min(self.verbosity, 2)])
        if self.random_seed is not None:
            from transformers import trainer_utils

            trainer_utils.set_seed(self.random_seed)
        if self.num_threads is not None:
            import torch

            torch.set_num_threads(self.num_threads)
            torch.set_num_interop_threads(self.num_threads)


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "xpu" if torch.xpu.is_available() else "cpu"


def shard_size(text: str | int) -> int:
    """Elements, as mergekit reads them.

    >>> shard_size("500M"), shard_size("5B"), shard_size("7")
    (500000000, 5000000000, 7)

    Raises:
        ValueError, IndexError: it is no size.
    """
    if isinstance(text, int):
        return text
    if text.isnumeric():
        return int(text)
    if (unit := text[-1].lower()) not in _UNITS:
        raise ValueError(text)
    return int(text[:-1]) * _UNITS[unit]
