"""lm-eval's `hf` without its silences: no random weights, and a cache belongs to one model.

Stock `hf` loads a Qwen2ForSequenceClassification checkpoint as a language model, fills the head
with random numbers and reports an accuracy. `guard_stock_models` puts `GuardedHFLM` in its place.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from mergekit_fair.checkpoints.folder import require_no_vector
from mergekit_fair.compat.lm_eval import replace_models
from mergekit_fair.compat.lm_eval_hf import HookedHFLM, commit_of
from mergekit_fair.errors import CheckpointError, ConfigError, first_line
from mergekit_fair.evaluation import advice
from mergekit_fair.evaluation.classifier import absent_weights
from mergekit_fair.evaluation.lm.answer_cache import (
    model_identity,
    options_identity,
    source_identity,
    tie_cache,
)
from mergekit_fair.evaluation.lm.scoring import refuse_labels
from mergekit_fair.evaluation.model_inputs import position_limit, tokenizer_identity
from mergekit_fair.evaluation.truncation import require_length

STOCK_NAMES = ("hf", "hf-auto", "huggingface")
_OURS = {
    "ForSequenceClassification": "fair-classifier",
    "ForImageClassification": "fair-image-classifier",
}

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


class CheckedHFLM(HookedHFLM):
    """`hf` whose weights all come from its checkpoint; base of the models that are registered.

    Takes the options of lm-eval's `hf`. `options` holds those that were given, by name.

    Raises:
        CheckpointError: weights that neither the checkpoint nor the adapter has; transformers
            would fill them with random numbers.
        ConfigError: `peft` or `delta` for a model that is already loaded; a `max_length` that the
            model cannot take.
    """

    AUTO_MODEL_CLASS: Any
    # Tokens that the model has positions for; None where positions are computed.
    position_limit: int | None = None

    def __init__(self, pretrained: Any, *args: Any, **options: Any) -> None:
        if isinstance(pretrained, os.PathLike):
            pretrained = os.fspath(pretrained)
        bound = inspect.signature(HFLM.__init__).bind(self, pretrained, *args, **options)
        named = dict(bound.arguments)
        more = named.pop("kwargs", {})
        self.options: dict[str, Any] = {**named, **more}
        del self.options["self"]
        self.adapter: Adapter | None = None
        if not isinstance(pretrained, str):
            self._require_no_parts()
        elif self.options.get("peft"):
            self.adapter = open_adapter(self.options["peft"], self._revision)
        given = self.options.get("max_length")
        if given is not None:  # lm-eval takes 0 for none
            require_length(given, None)
        super().__init__(pretrained, *args, **options)
        self.position_limit = position_limit(self.inner)
        if given is not None:
            require_length(given, self.position_limit, self.special_tokens)

    @property
    def special_tokens(self) -> int:
        """Tokens that stand in every input beside those of a text."""
        return 0

    @property
    def inner(self) -> Any:
        """The model without a peft wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

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

    def load_weights(self, *args: Any, **options: Any) -> None:
        """As `hf` does it, but what transformers reports of its loading is read."""
        kind = self.AUTO_MODEL_CLASS
        self.AUTO_MODEL_CLASS = _Loading(kind, self._require_complete)
        try:
            super().load_weights(*args, **options)
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
            checkpoint = str(folder) if folder.is_dir() else source
            weights = source_identity(checkpoint, self._revision, commit_of(self.config))
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
        require_no_vector(source)
        loaded = self._kind.from_pretrained(source, output_loading_info=True, **options)
        # Classes from the Hub may not know the option.
        model, report = loaded if isinstance(loaded, tuple) else (loaded, {})
        parameters = {name for name, _ in model.named_parameters()}
        absent = [name for name in absent_weights(report) if name in parameters]
        self._require_complete(source, absent)
        return model


class GuardedHFLM(CheckedHFLM):
    """lm-eval's `hf`, the same in everything that it does right.

    Raises:
        CheckpointError: a classifier, or an adapter of one; weights that the checkpoint lacks.
        ConfigError: a cache of another model; documents with several labels.
    """

    def choose_backend(self, config: Any, **options: Any) -> None:
        """Between configuration and weights, so a wrong model costs no loading."""
        super().choose_backend(config, **options)
        for name in self.architectures():
            if name.endswith("Classification") or "ForImageClassification" in name:
                raise _classifier(self.where, name)
        if self.adapter is not None and self.adapter.is_classifier:
            raise _classifier(f"peft={self.adapter.name}", "ForSequenceClassification")

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """As lm-eval's.

        Raises:
            ConfigError: documents with several labels.
        """
        refuse_labels(requests, self)
        return list(super().loglikelihood(requests, disable_tqdm))


def _classifier(where: str, name: str) -> CheckpointError:
    ours = next((model for end, model in _OURS.items() if end in name), None)
    return CheckpointError(
        "its architecture is a classifier; as a language model it would have a random head",
        where=where,
        got=name,
        fix=f"use {'--lm' if advice.program() == 'eval' else '--model'} {ours}"
        if ours
        else "use a model with a language model head",
    )


def guard_stock_models() -> None:
    """lm-eval's `hf`, `hf-auto` and `huggingface` become `GuardedHFLM` in this process.

    Raises:
        ConfigError: lm-eval's registry is frozen.
    """
    # Importing this module has let lm-eval register its own class under these names.
    replace_models(dict.fromkeys(STOCK_NAMES, GuardedHFLM))


@dataclass(frozen=True)
class Adapter:
    """An adapter's configuration, as far as heads go.

    Attributes:
        name: folder, or name on the Hub.
        revision: of the name.
        is_classifier: it was trained for sequence classification.
        brings_modules: it holds modules whole, so that one of them may be the head.
    """

    name: str
    revision: str | None
    is_classifier: bool
    brings_modules: bool

    def weights(self) -> frozenset[str]:
        """Names, in the base's terms, of the tensors that it holds; reads its file."""
        from peft import load_peft_weights

        tensors = load_peft_weights(self.name, device="cpu", revision=self.revision)
        return frozenset(key.removeprefix("base_model.").removeprefix("model.") for key in tensors)


def open_adapter(name: str, revision: str | None = None) -> Adapter:
    """Read an adapter's configuration.

    Raises:
        CheckpointError: there is none.
    """
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"is no adapter that peft can read ({first_line(error)})",
            where=f"peft={name}",
            fix="give the folder of an adapter that was saved with peft",
        ) from error
    task = getattr(config.task_type, "value", config.task_type)
    return Adapter(
        name, revision, task == "SEQ_CLS", bool(getattr(config, "modules_to_save", None))
    )
