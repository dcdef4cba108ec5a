"""`adapter_config.json` of a LoRA adapter: what it asks for, or why it is refused.

The file is untrusted JSON. What peft's plain LoRA needs is read, what only says how the adapter
was trained is passed over, and whatever else is set would change the weights: it is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import INDEX, PICKLES, SINGLE, inside, model_folder
from mergekit_fair.checkpoints.headers import COPY_AGAIN
from mergekit_fair.errors import CheckpointError

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
        *("fan_in_fan_out", "modules_to_save"),
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
# The other ways to begin change the base's weights when peft loads the adapter.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """A plain LoRA.

    Attributes:
        rank, alpha: r and lora_alpha.
        ranks, alphas: pattern of module names → another r or lora_alpha there.
        is_rslora: s = alpha / √r instead of alpha / r.
        fan_in_fan_out: whether weights are stored as (in, out).
        saved: the ends of names of modules that the adapter holds whole.
        raw: the file.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    is_rslora: bool
    fan_in_fan_out: bool
    saved: tuple[str, ...]
    raw: Mapping[str, Any]

    def rank_of(self, module: str) -> int:
        """r of a module."""
        return self.ranks.get(_pattern(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """s of a module, in θ = W + s·B·A."""
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.is_rslora else alpha / rank

    def saves(self, module: str) -> bool:
        """Whether the adapter holds a module, or one around it, whole."""
        parts = module.split(".")
        around = (".".join(parts[: end + 1]) for end in range(len(parts)))
        return any(name.endswith(saved) for name in around for saved in self.saved)


def is_adapter_folder(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and no weights of its own."""
    path = Path(folder)
    whole = (SINGLE, INDEX, *PICKLES)
    return (path / CONFIG).is_file() and not any((path / name).is_file() for name in whole)


def read_adapter_config(folder: str | Path, base: Path) -> AdapterConfig:
    """Read and check an adapter's configuration.

    Args:
        folder: of the adapter.
        base: the folder of the model that it is put on.

    Raises:
        CheckpointError: no adapter, more than plain LoRA, values that peft would not take, or an
            adapter of another base.
    """
    raw = _read(model_folder(folder))
    _require_plain(raw, folder)
    _require_base(raw.get("base_model_name_or_path"), base, folder)
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
        raw=raw,
    )


def _read(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(
            f"holds no {CONFIG}",
            where=folder,
            got=sorted(path.name for path in folder.iterdir())[:8],
            fix="give the folder of an adapter that was saved with peft",
        )
    try:
        content = json.loads(inside(folder, file).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"its {CONFIG} cannot be read ({reason})", where=folder, fix=COPY_AGAIN
        ) from error
    return content


def _require_plain(raw: Mapping[str, Any], folder: object) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            "is not a LoRA adapter", where=folder, got=kind, allowed="LORA", fix=MERGE_WITH_PEFT
        )
    more = {key: value for key, value in raw.items() if key not in _USED | _PASSED_OVER and value}
    if raw.get("bias", "none") != "none":
        more["bias"] = raw["bias"]
    if raw.get("init_lora_weights") not in _BEGINNINGS:
        more["init_lora_weights"] = raw["init_lora_weights"]
    for key, value in sorted(more.items()):
        raise CheckpointError(
            f"is more than plain LoRA: its {CONFIG} sets {key}",
            where=folder,
            got=value if len(repr(value)) < 100 else type(value).__name__,
            fix=MERGE_WITH_PEFT,
        )


def _require_base(named: Any, base: Path, folder: object) -> None:
    """Another folder that exists is another model; a name of the Hub says nothing here."""
    if named is None:
        return
    _checked(named, lambda value: isinstance(value, str), "base_model_name_or_path", folder)
    try:
        is_other = bool(named) and Path(named).is_dir() and not Path(named).samefile(base)
    except (OSError, ValueError):
        return
    if is_other:
        raise CheckpointError(
            f"was trained on another base than the one given ({base})",
            where=folder,
            got=named,
            fix=f"write {named}+{folder} if that is its base, or correct "
            f"base_model_name_or_path in its {CONFIG}",
        )


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


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30
