"""The files beside the weights: config, tokenizer or processor, card and recipe."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from mergekit.architecture import get_architecture_info
from mergekit.card import generate_card
from mergekit.common import ModelReference
from mergekit.merge import _copy_tokenizer, _model_out_config

from mergekit_fair.checkpoints.folder import inside, read_config
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.recipe import OrderedConfiguration, Recipe

# What transformers saves with tokenizers and processors of all kinds.
_COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "spm.model"),
    *("sentencepiece.bpe.model", "bpe.codes", "chat_template.jinja", "chat_template.json"),
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)


def write_config(config: OrderedConfiguration, options: Any, out: Path) -> None:
    """The base's config.json with the dtype of the merge, as mergekit writes it."""
    made = _model_out_config(
        config, get_architecture_info(config, options), trust_remote_code=options.trust_remote_code
    )
    made.save_pretrained(out)


def copy_companions(config: OrderedConfiguration, folder: Path, options: Any, out: Path) -> None:
    """Tokenizer, processor and generation settings of the base, and the code that it names.

    Args:
        config: the recipe; a `chat_template` is set as mergekit does.
        folder: of the base.
        options: mergekit's.
        out: the folder to write to.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    if not options.copy_tokenizer:
        return
    for source in sorted(folder.iterdir()):
        if source.name in _COPIED or (source.suffix == ".py" and _names_code(folder)):
            (out / source.name).write_bytes(_content(folder, source))
    if config.chat_template or _needs_tokenizer(config.referenced_models()[0], out):
        _tokenizer_by_mergekit(config, options, out, folder)


def write_card(recipe: Recipe, out: Path, name: str) -> None:
    """README.md and the recipe, verbatim unless something in it was resolved."""
    card = generate_card(recipe.configuration(), recipe.source, name=name)
    (out / "README.md").write_text(card, encoding="utf-8")
    (out / "mergekit_config.yml").write_text(recipe.source, encoding="utf-8")


def _content(folder: Path, source: Path) -> bytes:
    try:
        if not source.is_file() and not source.is_dir():  # a pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, "No such file")
        return inside(folder, source).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"its {source.name} could not be copied ({error.strerror})",
            where=folder,
            fix="make the file readable, or pass --no-copy-tokenizer",
        ) from None


def _names_code(folder: Path) -> bool:
    return "auto_map" in read_config(folder)


def _needs_tokenizer(base: ModelReference, out: Path) -> bool:
    """A model of the Hub whose tokenizer files were not among those that mergekit downloads."""
    is_remote = not Path(base.model.path).is_dir()
    return is_remote and not any((out / name).exists() for name in _COPIED[:1])


def _tokenizer_by_mergekit(
    config: OrderedConfiguration, options: Any, out: Path, folder: Path
) -> None:
    try:
        _copy_tokenizer(config, str(out), options)
    except Exception as error:  # transformers raises whatever a tokenizer's files make it raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"its tokenizer could not be copied ({reason})",
            where=folder,
            fix="add the tokenizer's files to the base, or pass --no-copy-tokenizer",
        ) from None
