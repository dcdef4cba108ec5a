"""Models of the Hub: found in its cache, else downloaded."""

from __future__ import annotations

from pathlib import Path

from mergekit_fair.checkpoints.file_kinds import KINDS

# What a merge reads, and what it carries over; a star stands for folders, too.
_BESIDE = ("*.json", "*.py", *(pattern for kind in KINDS for pattern in kind.patterns))


def downloaded(name: str, revision: str | None = None, cache: str | None = None) -> Path:
    """The snapshot of a model, without a look at the network where the cache has it offline.

    Args:
        name: such as `org/model`.
        revision: a branch, tag or commit; None for the main branch.
        cache: the cache's folder; None for the Hub's own.

    Raises:
        OSError, ValueError: it is neither in the cache nor on the Hub.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        files = huggingface_hub.list_repo_files(name, revision=revision)
    except (OfflineModeIsEnabled, ConnectionError, HfHubHTTPError, OSError) as error:
        if isinstance(error, RepositoryNotFoundError):
            raise
        snapshot = huggingface_hub.snapshot_download(
            name, revision=revision, cache_dir=cache, local_files_only=True
        )
        return Path(snapshot)
    is_safe = any(file.endswith(".safetensors") for file in files)
    patterns = [*_BESIDE, "*.safetensors" if is_safe else "*.bin"]
    return Path(
        huggingface_hub.snapshot_download(
            name, revision=revision, cache_dir=cache, allow_patterns=patterns
        )
    )
