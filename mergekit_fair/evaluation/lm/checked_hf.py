"""lm-eval's `hf` without its silences: no random weights, and a cache belongs to one model."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.evaluation.classifier import absent_weights
from mergekit_fair.evaluation.lm.answer_cache import tie_cache
from mergekit_fair.evaluation.lm.identity import (
    model_identity,
    options_identity,
    source_identity,
    tokenizer_identity,
)
from mergekit_fair.evaluation.lm.peft_adapter import Adapter, open_adapter

# Options that say where and how fast a model runs, or that the identity holds in another form.
_NO_PART = frozenset(
    {
        *("device", "batch_size", "max_batch_size", "parallelize", "tp_plan", "use_fast_tokenizer"),
        *("max_memory_per_gpu", "max_cpu_memory", "offload_folder", "device_map", "logits_cache"),
        *("pretrained", "tokenizer", "peft", "delta", "revision", "dtype", "max_length"),
        *("trust_remote_code", "torch_dtype"),
    }
)
_PARAMETERS = inspect.signature(HFLM.__init__).parameters
_DEFAULTS = {
    name: parameter.default
    for name, parameter in _PARAMETERS.items()
    if parameter.default is not inspect.Parameter.empty
}


class CheckedHFLM(HFLM):
    """`hf` whose weights all come from its checkpoint; base of the models that are registered.

    Takes the options of lm-eval's `hf`. `options` holds those that were given, by name.

    Raises:
        CheckpointError: weights that neither the checkpoint nor the adapter has; transformers
            would fill them with random numbers.
        ConfigError: `peft` or `delta` for a model that is already loaded.
    """

    AUTO_MODEL_CLASS: Any

    def __init__(self, pretrained: Any, *args: Any, **options: Any) -> None:
        if isinstance(pretrained, os.PathLike):
            pretrained = os.fspath(pretrained)
        bound = inspect.signature(HFLM.__init__).bind(self, pretrained, *args, **options)
        given = dict(bound.arguments)
        more = given.pop("kwargs", {})
        self.options: dict[str, Any] = {**given, **more}
        del self.options["self"]
        self.adapter: Adapter | None = None
        if not isinstance(pretrained, str):
            self._require_no_parts()
        elif self.options.get("peft"):
            self.adapter = open_adapter(self.options["peft"], self._revision)
        super().__init__(pretrained, *args, **options)

    @property
    def _revision(self) -> str:
        return str(self.options.get("revision", "main"))

    @property
    def where(self) -> str:
        """The model as messages name it."""
        source = self.options["pretrained"]
        return source if isinstance(source, str) else type(source).__name__

    def _require_no_parts(self) -> None:
        for name in ("peft", "delta"):
            if self.options.get(name):
                raise ConfigError(
                    "cannot be put on a model that is already loaded",
                    where=name,
                    got=self.options[name],
                    fix="load the model with it, or give the model's folder",
                )

    def architectures(self) -> list[str]:
        """What the checkpoint says it is, or what a model in memory is."""
        model = self.options["pretrained"]
        if isinstance(model, str):
            return list(getattr(self.config, "architectures", None) or [])
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        return [type(inner).__name__]

    def _create_model(self, *args: Any, **options: Any) -> None:
        """As `hf` does it, but what transformers reports of its loading is read."""
        kind = self.AUTO_MODEL_CLASS
        self.AUTO_MODEL_CLASS = _Loading(kind, self._require_complete)
        try:
            super()._create_model(*args, **options)
        finally:
            self.AUTO_MODEL_CLASS = kind

    def _require_complete(self, source: str, absent: list[str]) -> None:
        """Of the model, or of the delta on it."""
        if absent and self.adapter is not None:
            brought = self.adapter.weights()
            absent = [name for name in absent if name not in brought]
        if absent:
            raise self._random(source, absent)

    def _random(self, source: str, absent: list[str]) -> CheckpointError:
        holder = "neither it nor the adapter has" if self.adapter else "its files do not have"
        return CheckpointError(
            f"needs {len(absent)} weights that {holder}, such as {absent[:3]}; they would be "
            "random numbers",
            where=source if self.adapter is None else f"{source} with peft={self.adapter.name}",
            fix="use a checkpoint that was saved with all its weights, head included",
        )

    def identity(self) -> dict[str, object]:
        """Everything that decides the answers: digests of weights and tokenizer, and options."""
        source = self.options["pretrained"]
        if isinstance(source, str):
            folder = Path(source, self.options.get("subfolder") or "")
            commit = getattr(self.config, "_commit_hash", None)
            place = str(folder) if folder.is_dir() else source
            weights = source_identity(place, self._revision, commit)
        else:
            weights = model_identity(source)
        parts = {
            name: source_identity(self.options[name], self._revision)
            for name in ("peft", "delta")
            if self.options.get(name)
        }
        rest = {name: value for name, value in self.options.items() if name not in _NO_PART}
        return {
            "weights": weights,
            **parts,
            "tokenizer": tokenizer_identity(self.tokenizer),
            "dtype": str(getattr(self.model, "dtype", None)),
            "max_length": self.max_length,
            **options_identity(rest, _DEFAULTS),
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called by lm-eval when it opens a cache.

        Raises:
            ConfigError: the cache holds answers of another model.
        """
        tie_cache(cache_hook.dbdict, self.where, self.identity())
        super().set_cache_hook(cache_hook)


class _Loading:
    """Stands in for an auto class and looks at what each loading has left to chance.

    Args:
        kind: the auto class.
        require_complete: called with the source and the names of those parameters. Buffers do not
            count: a model may compute its own.
    """

    def __init__(self, kind: Any, require_complete: Callable[[str, list[str]], None]) -> None:
        self._kind = kind
        self._require_complete = require_complete

    def from_pretrained(self, source: str, **options: Any) -> Any:
        found = self._kind.from_pretrained(source, output_loading_info=True, **options)
        # Classes from the Hub may not know the option.
        model, report = found if isinstance(found, tuple) else (found, {})
        parameters = {name for name, _ in model.named_parameters()}
        absent = [name for name in absent_weights(report) if name in parameters]
        self._require_complete(source, absent)
        return model
