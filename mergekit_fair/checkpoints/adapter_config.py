"""`adapter_config.json` of a LoRA adapter: what it asks for, or why it is refused.

The file is untrusted JSON. What LoRA and DoRA need is read, what only says how the adapter was
trained is passed over, and whatever else is set would change the weights: it is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import (
    INDEX,
    PICKLES,
    SINGLE,
    adapters_below,
    inside,
    model_folder,
)
from mergekit_fair.checkpoints.headers import COPY_AGAIN
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import text_of

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

MERGE_WITH_PEFT = (
    "merge it with peft first, PeftModel.from_pretrained(base, adapter).merge_and_unload(), and "
    "give the folder of the saved result"
)

# Read here.
_USED = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "bias", "init_lora_weights"),
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("fan_in_fan_out", "modules_to_save", "trainable_token_indices", "use_dora", "lora_bias"),
    }
)
# Which modules were adapted (the weights say it, too), and how they were trained.
_PASSED_OVER = frozenset(
    {
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode"),
        *("lora_dropout", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
    }
)
_BESIDE = "load it with peft, beside the model"
# What no merged weights can do, whatever merges them: why, and the way out.
_UNMERGEABLE = {
    "alora_invocation_tokens": (
        "acts only after its invocation tokens, which no merged weights do",
        _BESIDE,
    ),
    "arrow_config": (
        "chooses among adapters for each token, which no merged weights do",
        _BESIDE,
    ),
    "layer_replication": (
        "repeats layers of its base, so that the merged model has other layers than the base",
        "repeat the layers first, by a passthrough merge with slices, and train it on the result",
    ),
}
# Kinds that add to a model's input, and change no weights.
_PROMPTS = re.compile("PROMPT|^(P_TUNING|PREFIX_TUNING|CPT)$")
# The other ways to begin change the base's weights when peft loads the adapter.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA or DoRA.

    Attributes:
        rank, alpha: r and lora_alpha.
        ranks, alphas: pattern of module names → another r or lora_alpha there.
        is_rslora: s = alpha / √r instead of alpha / r.
        fan_in_fan_out: whether weights are stored as (in, out).
        saved: the ends of names of modules that the adapter holds whole.
        is_dora: whether it has a magnitude for each output.
        tokens: the end of an embedding's name → the indices of the rows that it replaces; under
            the empty name, of the one embedding that the adapter has rows of.
        base: the folder or name of the model that it was trained on; empty if it says none.
        raw: the file.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    is_rslora: bool
    fan_in_fan_out: bool
    saved: tuple[str, ...]
    is_dora: bool
    tokens: Mapping[str, tuple[int, ...]]
    base: str
    raw: Mapping[str, Any]

    def rank_of(self, module: str) -> int:
        """r of a module."""
        return self.ranks.get(_pattern(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """s of a module, in θ = W + s·B·A."""
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.is_rslora else alpha / rank

    def tokens_of(self, module: str) -> tuple[int, ...]:
        """The indices of the rows of an embedding that are replaced."""
        return next((rows for end, rows in self.tokens.items() if module.endswith(end)), ())

    def saves(self, module: str) -> bool:
        """Whether the adapter holds a module, or one around it, whole."""
        parts = module.split(".")
        around = (".".join(parts[: end + 1]) for end in range(len(parts)))
        return any(name.endswith(saved) for name in around for saved in self.saved)


def is_adapter_folder(name: str | Path) -> bool:
    """Whether a folder, or a model of the Hub in its cache, is an adapter without other weights."""
    path = Path(name)
    if not path.is_dir():
        path = _snapshot(str(name)) or path
    whole = (SINGLE, INDEX, *PICKLES)
    return (path / CONFIG).is_file() and not any((path / name).is_file() for name in whole)


def _snapshot(name: str) -> Path | None:
    """Where the Hub's cache has an adapter; None if there is none of this name."""
    import huggingface_hub

    repository, _, revision = name.partition("@")
    try:
        file = huggingface_hub.try_to_load_from_cache(repository, CONFIG, revision=revision or None)
    except (OSError, ValueError):  # no name of the Hub
        return None
    return Path(file).parent if isinstance(file, str) else None


def read_adapter_config(folder: str | Path) -> AdapterConfig:
    """Read and check an adapter's configuration.

    Raises:
        CheckpointError: no adapter, more than LoRA and DoRA, or values that peft would not take.
    """
    raw = raw_config(folder)
    require_mergeable(raw, folder)
    _require_plain(raw, folder)
    alphas = _patterns(raw, "alpha_pattern", folder)
    ranks = _patterns(raw, "rank_pattern", folder)
    return AdapterConfig(
        rank=_checked(raw.get("r", 8), _is_rank, "r", folder),
        alpha=_checked(raw.get("lora_alpha", 8), _is_number, "lora_alpha", folder),
        ranks={key: _checked(r, _is_rank, "rank_pattern", folder) for key, r in ranks.items()},
        alphas={key: _checked(a, _is_number, "alpha_pattern", folder) for key, a in alphas.items()},
        is_rslora=bool(raw.get("use_rslora")),
        fan_in_fan_out=bool(raw.get("fan_in_fan_out")),
        saved=_saved(raw, folder),
        is_dora=bool(raw.get("use_dora")),
        tokens=_tokens(raw.get("trainable_token_indices") or {}, folder),
        base=_base(raw.get("base_model_name_or_path") or "", folder),
        raw=raw,
    )


def raw_config(folder: str | Path) -> dict[str, Any]:
    """The file's content.

    Raises:
        CheckpointError: there is none, or it is not a JSON mapping.
    """
    folder = model_folder(folder)
    file = folder / CONFIG
    if not file.is_file():
        if error := adapters_below(folder):
            raise error
        raise CheckpointError(
            f"holds no {CONFIG}",
            where=folder,
            got=sorted(path.name for path in folder.iterdir())[:8],
            fix="give the folder of an adapter that was saved with peft",
        )
    try:
        content = json.loads(text_of(inside(folder, file)))
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"its {CONFIG} cannot be read ({reason})", where=folder, fix=COPY_AGAIN
        ) from error
    return content


def require_mergeable(raw: Mapping[str, Any], folder: object) -> None:
    """Check that there are weights that do what the adapter does.

    Raises:
        CheckpointError: names the option, and the way out.
    """
    if _PROMPTS.search(str(raw.get("peft_type"))):
        raise CheckpointError(
            "adds to a model's input and changes no weights",
            where=folder,
            got=raw["peft_type"],
            fix=_BESIDE,
        )
    for key, (problem, fix) in _UNMERGEABLE.items():
        if raw.get(key):
            raise CheckpointError(
                f"{problem}: its {CONFIG} sets {key}", where=folder, got=_short(raw[key]), fix=fix
            )


def _require_plain(raw: Mapping[str, Any], folder: object) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            "is not a LoRA adapter", where=folder, got=kind, allowed="LORA", fix=MERGE_WITH_PEFT
        )
    more = {key: value for key, value in raw.items() if key not in _USED | _PASSED_OVER and value}
    if raw.get("bias", "none") not in ("none", "all", "lora_only"):
        more["bias"] = raw["bias"]
    if raw.get("init_lora_weights") not in _BEGINNINGS:
        more["init_lora_weights"] = raw["init_lora_weights"]
    for key, value in sorted(more.items()):
        raise CheckpointError(
            f"is more than LoRA or DoRA: its {CONFIG} sets {key}",
            where=folder,
            got=_short(value),
            fix=MERGE_WITH_PEFT,
        )


def _base(named: Any, folder: object) -> str:
    _checked(named, lambda value: isinstance(value, str), "base_model_name_or_path", folder)
    return str(named)


def _short(value: Any) -> Any:
    return value if len(repr(value)) < 100 else type(value).__name__


def _patterns(raw: Mapping[str, Any], key: str, folder: object) -> dict[str, Any]:
    patterns = raw.get(key) or {}
    _checked(patterns, lambda value: isinstance(value, dict), key, folder)
    for pattern in patterns:
        try:
            _require_light(pattern)
            _whole(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(
                f"its {CONFIG} has a pattern in {key} that cannot be matched ({error})",
                where=folder,
                got=pattern,
                fix="write the names of the modules",
            ) from error
    return patterns


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that matches the module's name or its end, as peft matches them."""
    for pattern in patterns:
        if _whole(pattern).match(module):
            return pattern
    return module


def _whole(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _require_light(pattern: str) -> None:
    """A pattern from a file must not keep `re` busy for hours."""
    repetitions = sum(map(pattern.count, "*+{"))
    if re.search(r"\)[*+{]", pattern) or repetitions > 3 or pattern.count("?") > 8:
        raise re.error("too many repetitions")


def _saved(raw: Mapping[str, Any], folder: object) -> tuple[str, ...]:
    names = raw.get("modules_to_save") or []
    is_names = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    _checked(names, lambda _: is_names, "modules_to_save", folder)
    return tuple(dict.fromkeys(names))


def _tokens(raw: Any, folder: object) -> dict[str, tuple[int, ...]]:
    key = "trainable_token_indices"
    named = {"": raw} if isinstance(raw, list) else raw
    _checked(named, lambda value: isinstance(value, dict), key, folder)
    for rows in named.values():
        _checked(
            rows, lambda value: isinstance(value, list) and all(map(_is_row, value)), key, folder
        )
    return {end: tuple(rows) for end, rows in named.items()}


def _checked(value: Any, is_good: Callable[[Any], bool], key: str, folder: object) -> Any:
    if not is_good(value):
        raise CheckpointError(
            f"its {CONFIG} has a value of {key} that peft would not take",
            where=folder,
            got=value,
            fix=COPY_AGAIN,
        )
    return value


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_row(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30
