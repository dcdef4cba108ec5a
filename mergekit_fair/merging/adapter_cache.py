"""The merged adapters that mergekit's own methods read, kept by content.

mergekit knows an adapter in `--lora-merge-cache` by its path alone and takes any folder there for
complete: a retrained adapter at the same path gives the old result, a killed merge a half one.
Here each set of adapters has a folder named by what is in it, which appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference

from mergekit_fair.checkpoints.adapter_config import CONFIG
from mergekit_fair.checkpoints.folder import digest_of
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import staged_folder
from mergekit_fair.merging.open_models import located
from mergekit_fair.merging.recipe import OrderedConfiguration


@contextmanager
def merged_adapters(config: OrderedConfiguration, options: Any, out: Path) -> Iterator[Any]:
    """Options whose `lora_merge_cache` holds the recipe's adapters merged into their bases.

    Without `--lora-merge-cache`, they lie beside the output until the merge is done.

    Args:
        config: the recipe.
        options: mergekit's `MergeOptions`.
        out: the output, held by this process.

    Raises:
        CheckpointError: an adapter that is not found, or that peft cannot merge.
        ConfigError: another process is merging the same adapters.
    """
    adapted = [model for model in config.referenced_models() if model.lora is not None]
    if not adapted:
        yield options
        return
    temporary = out.parent / f".{out.name}.adapters"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        place = Path(options.lora_merge_cache or temporary) / _digest(adapted, options)
        if not place.is_dir():
            with staged_folder(place) as folder:
                for model in adapted:
                    _merge(model, folder, options)
        yield options.model_copy(update={"lora_merge_cache": str(place)})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(adapted: Sequence[ModelReference], options: Any) -> str:
    """Of the adapters' content, and of their bases' files as `digest_of` sees them."""
    digest = hashlib.sha256(str(options.lora_merge_dtype).encode())
    for model in adapted:
        base = located(ModelReference(model=model.model), options)
        adapter = located(ModelReference(model=model.lora), options)
        if not (adapter / CONFIG).is_file():
            raise CheckpointError(
                f"holds no {CONFIG}",
                where=adapter,
                got=sorted(path.name for path in adapter.iterdir())[:8],
                fix="give the folder of an adapter that was saved with peft",
            )
        digest.update(f"{model}\n".encode())
        patterns = ("*.safetensors", "*.bin", "*.index.json", "config.json")
        files = [file for pattern in patterns for file in sorted(base.glob(pattern))]
        digest.update(digest_of(files).encode())
        for file in sorted(adapter.glob("adapter_*")):
            digest.update(f"{file.name}\n".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _merge(model: ModelReference, folder: Path, options: Any) -> None:
    """Into `folder`, under the name that mergekit looks for."""
    try:
        with warnings.catch_warnings():
            # peft would fill what it does not find with its own beginning, and go on.
            warnings.filterwarnings("error", message=".*missing adapter keys")
            model.merged(
                cache_dir=str(folder),
                trust_remote_code=options.trust_remote_code,
                lora_merge_dtype=options.lora_merge_dtype,
            )
    except Exception as error:  # peft and transformers raise whatever the files make them raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"peft cannot merge the adapter into its base ({reason})",
            where=model,
            fix="give the base that it was trained on",
        ) from error
