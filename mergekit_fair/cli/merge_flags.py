"""The options of `mergekit-yaml`, for a command of ours, without importing mergekit.

A test compares names, types, defaults and help with mergekit's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from mergekit_fair.merging.merge_options import MergeOptions, shard_size

# Heading of the help → field of `MergeOptions` → help.
HELP = {
    "Dangerous Options": {
        "allow_crimes": "Allow mixing architectures",
        "unsafe_truncate_embeddings": "UNSAFE: discard trailing embedding rows to match the "
        "smallest vocabulary. Assumes identical token IDs; use tokenizer configuration instead.",
        "trust_remote_code": "Trust remote code from huggingface repos (danger)",
    },
    "Storage": {
        "transformers_cache": "Override storage path for downloaded models",
        "lora_merge_cache": "Path to store merged LORA models",
    },
    "Miscellaneous": {
        "lora_merge_dtype": "Override dtype when applying LoRAs",
        "random_seed": "Seed for reproducible use of randomized merge methods",
        "verbosity": "Verbose logging (repeat for more verbosity)",
        "quiet": "Suppress progress bars and other non-essential output",
    },
    "Performance": {
        "cuda": "Perform matrix arithmetic on GPU",
        "device": "Perform matrix arithmetic on specified device",
        "low_cpu_memory": "Store results and intermediate values on accelerator. Useful if VRAM > "
        "RAM",
        "lazy_unpickle": "Experimental lazy unpickler for lower memory usage",
        "read_to_gpu": "Read model weights directly to accelerator",
        "multi_gpu": "Use multi-gpu parallel graph execution engine",
        "num_threads": "Number of threads to use for parallel CPU operations",
        "gpu_rich": "Alias for --cuda --low-cpu-memory --read-to-gpu --multi-gpu",
        "async_write": "Write output shards asynchronously (faster execution, higher memory use)",
        "write_threads": "Number of threads to use for asynchronous writes",
    },
    "Output Settings": {
        "out_shard_size": "Number of parameters per output shard  [default: 5B]",
        "copy_tokenizer": "Copy a tokenizer to the output",
        "clone_tensors": "Clone tensors before saving, to allow multiple occurrences of the same "
        "layer",
        "write_model_card": "Output README.md containing details of the merge",
        "safe_serialization": "Save output in safetensors. Do this, don't poison the world with "
        "more pickled models.",
    },
}
_TEXTS = {"transformers_cache", "lora_merge_cache", "lora_merge_dtype", "device"}
_SIZE = "out_shard_size"


class Size(click.ParamType):  # type: ignore[type-arg]
    """Elements: 500M, 5B."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return shard_size(value)
        except (ValueError, IndexError):
            return self.fail(f"{value!r} is not a size, such as 500M or 5B", param, ctx)


def add_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options of `mergekit-yaml`; the command gets a `MergeOptions` as `merge_options`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in MergeOptions.model_fields if name in kwargs}
        return command(*args, **kwargs, merge_options=MergeOptions(**given))

    made: Callable[..., Any] = wrapped
    texts = {name: text for part in HELP.values() for name, text in part.items()}
    for name, info in reversed(MergeOptions.model_fields.items()):
        made = _option(name, info.default, texts[name])(made)
    return made


def _option(name: str, default: Any, text: str) -> Callable[..., Any]:
    flag, more = f"--{name.replace('_', '-')}", dict[str, Any]()
    names: list[str] = [flag]
    kind: Any = str if name in _TEXTS else int
    if isinstance(default, bool):
        names, kind = [f"{flag}/--no-{flag[2:]}"], bool
    if name == "verbosity":
        names, more = ["-v", name], {"count": True}
    elif name == "num_threads":
        names = [flag, "-j"]
    elif name == "gpu_rich":
        names, more = [flag], {"is_flag": True}
    return click.option(
        *names,
        type=Size() if name == _SIZE else kind,
        default=default,
        help=text,
        show_default=name not in (_SIZE, "verbosity"),
        **more,
    )


class HelpWithHeadings(click.Command):
    """A command whose help has mergekit's options under mergekit's headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings = {name: heading for heading, part in HELP.items() for name in part}
        parts: dict[str, list[tuple[str, str]]] = {"Script Options": []}
        for parameter in self.params:
            heading = headings.get(str(parameter.name), "Script Options")
            record = parameter.get_help_record(ctx)
            parts.setdefault(heading, []).extend([record] if record else [])
        for heading, records in parts.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
