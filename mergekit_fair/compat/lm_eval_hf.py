"""Private steps of lm-eval's `hf` model (0.4.13) under names of our own.

lm-eval has no public way to look between the steps of loading, where a wrong model costs nothing
yet. A subclass overrides `read_config`, `choose_backend`, `load_tokenizer` and `load_weights`, and
calls the one of `super()`.
"""

from __future__ import annotations

from typing import Any

from lm_eval.models.huggingface import HFLM


class HookedHFLM(HFLM):
    """lm-eval's `hf`, the same in everything."""

    def read_config(self, pretrained: str, **options: Any) -> None:
        """First: the configuration, into `config`."""
        super()._get_config(pretrained, **options)

    def choose_backend(self, config: Any, **options: Any) -> None:
        """After the configuration: causal or seq2seq, into `backend`."""
        super()._get_backend(config, **options)

    def load_tokenizer(self, pretrained: Any, tokenizer: Any, **options: Any) -> None:
        """Before the weights."""
        super()._create_tokenizer(pretrained, tokenizer, **options)

    def load_weights(self, *args: Any, **options: Any) -> None:
        """Last: the model, by `AUTO_MODEL_CLASS`."""
        super()._create_model(*args, **options)

    @property
    def given_max_length(self) -> int | None:
        """The option `max_length`; `max_length` itself falls back to the model's."""
        return self._max_length or None

    def _get_config(self, pretrained: str, **options: Any) -> None:
        self.read_config(pretrained, **options)

    def _get_backend(self, config: Any, **options: Any) -> None:
        self.choose_backend(config, **options)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **options: Any) -> None:
        self.load_tokenizer(pretrained, tokenizer, **options)

    def _create_model(self, *args: Any, **options: Any) -> None:
        self.load_weights(*args, **options)


def commit_of(config: Any) -> str | None:
    """The commit that a model's configuration came from on the Hub; None for a folder.

    transformers keeps it in `_commit_hash`; asking the Hub needs the network.
    """
    return getattr(config, "_commit_hash", None)
