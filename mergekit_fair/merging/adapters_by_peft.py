"""Adapters that mergekit's engine merges: by peft, watched, and kept by what is in them.

mergekit knows an adapter in `--lora-merge-cache` by its path alone and takes any folder there for
complete: a retrained adapter at the same path gives the old result, a killed merge a half one. Here
each adapter has a folder named by its content, which appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.adapter_config import (
    is_adapter_folder,
    raw_config,
    require_mergeable,
)
from mergekit_fair.checkpoints.folder import digest_of, model_folder
from mergekit_fair.checkpoints.hub import downloaded
from mergekit_fair.checkpoints.lora import UNTIE, refuse_ties
from mergekit_fair.checkpoints.reader import Reader, open_folder
from mergekit_fair.compat.mergekit import merge_adapters_by
from mergekit_fair.compat.peft import adapter_report
from mergekit_fair.errors import CheckpointError, RecipeError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.ties import apart_in, separate_ties

# Characters of what peft and transformers say of an adapter.
_LONGEST = 400
# What they say where the base is another one.
_OTHER_BASE = ("size mismatch", "missing adapter keys", "Target modules")

# The caches of merges in this process that end with `settle_ties`; mergekit's own commands do not.
_SETTLED: set[str] = set()

Merge = Callable[[str], Any]


def register_adapters() -> None:
    """Watch every adapter that mergekit merges in this process; again changes nothing."""
    merge_adapters_by(_merged)


def require_bases(config: Any) -> None:
    """Refuse adapters that are named alone: mergekit does not put them on `base_model`.

    Raises:
        RecipeError: names the first.
    """
    for model in config.referenced_models():
        if model.lora is None and is_adapter_folder(model.model.path):
            raise RecipeError(
                "is a LoRA adapter without its base, which mergekit does not look for",
                where=f"model {model}",
                fix=f"write BASE+{model}, with the model that it was trained on, or run "
                "mergekit-fair merge",
            )


@contextmanager
def merged_adapters(options: Any, out: Path) -> Iterator[Any]:
    """Options by which mergekit merges adapters into their bases, each once.

    Without `--lora-merge-cache`, they lie beside the output until the merge is done.

    Args:
        options: mergekit's `MergeOptions`.
        out: the output, held by this process.
    """
    register_adapters()
    temporary = out.parent / f".{out.name}.adapters"
    shutil.rmtree(temporary, ignore_errors=True)
    cache = str(options.lora_merge_cache or temporary)
    _SETTLED.add(cache)
    try:
        yield options.model_copy(update={"lora_merge_cache": cache})
    finally:
        _SETTLED.discard(cache)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def adapter_merged(model: Any, options: Any) -> Iterator[Reader]:
    """An adapter as mergekit's methods get it: merged by peft, or found merged.

    Args:
        model: with the adapter.
        options: mergekit's `MergeOptions` with a `lora_merge_cache`.

    Raises:
        CheckpointError: as a merge; or it holds apart what its base ties.
    """
    register_adapters()
    found = model.merged(
        cache_dir=options.lora_merge_cache,
        trust_remote_code=options.trust_remote_code,
        lora_merge_dtype=options.lora_merge_dtype,
    )
    with closing(open_folder(found.model.path, allow_pickle=True)) as reader:
        yield reader


def settle_ties(config: Any, options: Any, base: Path, folder: Path) -> set[str]:
    """Let the merged model hold apart what its adapters hold apart, and its base ties.

    Args:
        config: that was merged.
        options: of `merged_adapters`.
        base: the base's folder.
        folder: of the merged model.

    Returns:
        The names of these tensors.

    Raises:
        CheckpointError: they are not in the merged model.
    """
    merged = [
        model.merged(
            cache_dir=options.lora_merge_cache,
            trust_remote_code=options.trust_remote_code,
            lora_merge_dtype=options.lora_merge_dtype,
        )
        for model in config.referenced_models()
        if model.lora is not None
    ]
    apart = apart_in([Path(model.model.path) for model in merged], base)
    if not apart:
        return apart
    with closing(open_folder(folder, allow_pickle=True)) as reader:
        lost = sorted(apart - reader.tensors.keys())
    if lost:
        raise CheckpointError(
            f"adapters hold {lost[0]} apart from the tensor that the base ties it to, and mergekit "
            "would leave it out",
            where=base,
            fix=UNTIE,
        )
    separate_ties(folder)
    return apart


def _merged(model: Any, merge: Merge, cache: str, dtype: object) -> Any:
    """Merge an adapter by mergekit's own function, or find it merged.

    Args:
        model: with an adapter.
        merge: mergekit's, into a folder that is given.
        cache: `--lora-merge-cache`.
        dtype: `--lora-merge-dtype`.

    Raises:
        CheckpointError: an adapter that is not found, or that peft cannot merge.
        ConfigError: another process is merging the same adapter.
    """
    base, adapter = _located(model.model), _located(model.lora)
    require_mergeable(raw_config(adapter), adapter)
    refuse_ties(adapter, base)
    folder = Path(cache) / _digest(model, base, adapter, dtype)
    if not folder.is_dir():
        with staged_folder(folder) as staging:
            _merge(model, merge, staging)
    found = merge(str(folder))
    apart = set() if cache in _SETTLED else apart_in([Path(found.model.path)], base)
    if apart:
        raise CheckpointError(
            f"holds {' and '.join(sorted(apart))} apart, which the base ties: transformers would "
            "read one of the merged tensors for both",
            where=model,
            fix="run mergekit-fair merge, which sets tie_word_embeddings to false",
        )
    return found


def _located(part: Any) -> Path:
    path = "" if part is None else part.path
    if part is None or Path(path).is_dir() or path.startswith(("/", ".", "~")):
        return model_folder(path)
    try:
        return downloaded(path, part.revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "neither a folder here nor found on the Hub", where=part, fix="check the path"
        ) from error


def _digest(model: Any, base: Path, adapter: Path, dtype: object) -> str:
    """Of the adapter's content, and of the base's files as `digest_of` sees them."""
    patterns = ("*.safetensors", "*.bin", "*.index.json", "config.json")
    files = [file for pattern in patterns for file in sorted(base.glob(pattern))]
    digest = hashlib.sha256(f"{dtype}\n{model}\n{digest_of(files)}\n".encode())
    for file in sorted(adapter.glob("adapter_*")):
        digest.update(f"{file.name}\n".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _merge(model: Any, merge: Merge, folder: Path) -> None:
    """Into `folder`, under the name that mergekit looks for."""
    try:
        with warnings.catch_warnings(), adapter_report() as unused:
            # peft would fill what it does not find with its own beginning, and go on.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            merge(str(folder))
    except Exception as error:  # peft and transformers raise whatever the files make them raise
        text = " ".join(str(error).split())
        raise CheckpointError(
            f"peft cannot merge the adapter into its base ({text or repr(error)})"[:_LONGEST],
            where=model,
            fix="give the base that it was trained on"
            if any(sign in text for sign in _OTHER_BASE)
            else None,
        ) from error
    if unused:
        raise CheckpointError(
            f"peft leaves out {len(unused)} tensors of the adapter, for modules that the base does "
            "not have",
            where=model,
            got=sorted(unused)[:3],
            fix="give the base that it was trained on, as the architecture that it was trained as",
        )
