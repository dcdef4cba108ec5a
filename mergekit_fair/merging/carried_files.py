"""What a merged model takes over from its inputs, beside the weights.

Each kind of file is the base's. Of a kind that the base has nothing of, what the other models
have is carried over if they agree; a note says so, or says what was left out.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.file_kinds import (
    CHAT_TEMPLATE,
    GENERATION,
    GENERATION_CONFIG,
    KINDS,
    TEMPLATE,
    TEMPLATE_HOLDERS,
    TEMPLATES,
    FileKind,
    chat_templates,
    code_of,
    content_of,
    files_of,
    is_weights,
    json_in,
    json_of,
)
from mergekit_fair.compat.mergekit import chat_template_names, chat_template_text
from mergekit_fair.compat.remembered import remembered
from mergekit_fair.merging.configuration import MergeConfiguration, ModelReference
from mergekit_fair.merging.model_checks import located
from mergekit_fair.merging.saved_config import agreed_settings

Contents = dict[str, bytes]
Donors = Sequence[tuple[str, Path]]

# What savers write into JSON of themselves: versions and places.
_IGNORED = (
    *("transformers_version", "__version__", "_name_or_path", "name_or_path", "_from_model_config"),
    *("tokenizer_file", "special_tokens_map_file", "is_local", "local_files_only", "backend"),
)
_LAST_CALL = ("truncation", "padding")  # in tokenizer.json
# Of a generation config that is made of any model's config.json.
_USUAL = {
    *("transformers_version", "_from_model_config", "use_cache", "output_attentions"),
    *("output_hidden_states", "return_dict_in_generate", "pad_token_id", "bos_token_id"),
    *("eos_token_id", "decoder_start_token_id"),
}


@dataclass(frozen=True)
class CarriedFiles:
    """What is put beside the weights of a merged model.

    Attributes:
        contents: path in the model folder → content.
        settings: keys of config.json that the base's has not.
        notes: what was not the base's, or left out; one sentence each.
    """

    contents: Mapping[str, bytes]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Put the files into `folder`; what mergekit has put there stays, but for templates.

        Raises:
            OSError: the disk is full, or whatever else the system says.
        """
        if TEMPLATE in self.contents:
            shutil.rmtree(folder / TEMPLATES, ignore_errors=True)
        for path, content in self.contents.items():
            file = folder / path
            if path == TEMPLATE or not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)


def carried_files(config: MergeConfiguration, options: Any) -> CarriedFiles:
    """Find out what the models of a recipe have beside their weights, and whose it is to be.

    Where mergekit builds a tokenizer, it saves it itself.

    Args:
        config: the recipe; its models are there.
        options: mergekit's `MergeOptions`; without `copy_tokenizer`, tokenizers and chat templates
            are left out.

    Raises:
        CheckpointError: a model that is not found, or a file that cannot be read.
    """
    donors = _donors(config, options)
    _, folder = donors[0]
    contents, notes = _read(None, folder, code_of(folder)), list[str]()
    builds_tokenizer = bool(config.tokenizer_source or config.tokenizer)
    takes_text = options.copy_tokenizer and not builds_tokenizer
    takes_template = takes_text or builds_tokenizer
    template = _asked_template(config.chat_template, donors) if takes_template else None
    for kind in KINDS:
        if kind.is_text and not takes_text:
            continue
        if kind is CHAT_TEMPLATE and template is not None:
            continue
        carry = {CHAT_TEMPLATE: _templates, GENERATION: _generation}.get(kind, _files)
        found, its_notes = carry(kind, donors)
        contents = found | contents
        notes += its_notes
    if template is not None:
        contents = {path: _without_template(path, item) for path, item in contents.items()}
        contents[TEMPLATE] = template.encode()
    if config.chat_template and not takes_template:
        notes.append("chat_template is not written: --no-copy-tokenizer leaves it out")
    configs = {model: json_of(place / "config.json") for model, place in donors}
    settings, its_notes = agreed_settings(configs, (config.parameters or {}).get("head"))
    return CarriedFiles(contents, settings, (*notes, *its_notes))


def _donors(config: MergeConfiguration, options: Any) -> Donors:
    """Model → its folder, the base first; an adapter's own folder comes before its model's."""
    models = config.referenced_models()
    parts = [models[0].model]
    for model in models:
        parts += [part for part in (model.lora, model.model) if part]
    donors: dict[Path, tuple[str, Path]] = {}
    for part in dict.fromkeys(parts):
        folder = located(ModelReference(model=part), options)
        donors.setdefault(folder.resolve(), (str(part), folder))
    return list(donors.values())


def _read(kind: FileKind | None, folder: Path, files: Mapping[str, Path]) -> Contents:
    return {path: content_of(kind, folder, file) for path, file in files.items()}


def _files(kind: FileKind, donors: Donors) -> tuple[Contents, list[str]]:
    """Of the base; of the first other model that has some, if the base has none and all agree."""
    base = donors[0][0]
    held = [(model, place, files_of(kind, place)) for model, place in donors]
    held = [item for item in held if item[2]]
    if not held:
        return {}, []
    notes: list[str] = []
    (model, folder, files), *others = held
    contents = _read(kind, folder, _plain(files))
    if model != base:
        for other, place, its in others:
            difference = _difference(contents, _read(kind, place, _plain(its)))
            if difference:
                return {}, [_left_out(kind, base, model, other, difference)]
        notes.append(f"the {kind.title} is that of {model}: {base} has none")
    for path in files.keys() - contents.keys():
        content = content_of(kind, folder, files[path])
        if all(
            content == content_of(kind, place, its[path]) for _, place, its in others if path in its
        ):
            contents[path] = content
        else:
            notes.append(
                f"{path} is left out: it differs between the models and is not merged; the "
                f"{kind.title} does not load until one is put there"
            )
    return contents, notes


def _plain(files: Mapping[str, Path]) -> dict[str, Path]:
    return {path: file for path, file in files.items() if not is_weights(path)}


def _difference(one: Contents, other: Contents) -> str | None:
    """The first file that both have and that says something else; None if they agree."""
    shared = sorted(one.keys() & other.keys())
    if not shared:
        return f"{min(one)} and {min(other)}"
    return next(
        (
            path
            for path in shared
            if one[path] != other[path] and _meaning(path, one) != _meaning(path, other)
        ),
        None,
    )


def _meaning(path: str, contents: Contents) -> Any:
    """JSON without what its writer says of itself; anything else as it is."""
    value = json_in(contents[path])
    if not isinstance(value, dict):
        return contents[path] if value is None else value
    ignored = _IGNORED + (_LAST_CALL if path.endswith("tokenizer.json") else ())
    return {key: item for key, item in value.items() if key not in ignored}


def _left_out(kind: FileKind, base: str, one: str, other: str, what: str) -> str:
    return f"no {kind.title} is written: {base} has none, and {one} and {other} differ in {what}"


def _templates(kind: FileKind, donors: Donors) -> tuple[Contents, list[str]]:
    """As `_files`; a template may lie in a tokenizer's or processor's JSON, too."""
    base, folder = donors[0]
    held = [(model, found) for model, place in donors if (found := chat_templates(place))]
    if not held or held[0][0] == base:
        return _read(kind, folder, files_of(kind, folder)), []
    (model, templates), *others = held
    for other, its in others:
        if {name: text.strip() for name, text in its.items()} != {
            name: text.strip() for name, text in templates.items()
        }:
            return {}, [_left_out(kind, base, model, other, "it")]
    contents = {
        TEMPLATE if name == "default" else f"{TEMPLATES}/{name}.jinja": text.encode()
        for name, text in templates.items()
    }
    return contents, [f"the {kind.title} is that of {model}: {base} has none"]


def _generation(kind: FileKind, donors: Donors) -> tuple[Contents, list[str]]:
    """As `_files`; config.json may hold the settings, where transformers reads them, too."""
    _, folder = donors[0]
    config = json_of(folder / "config.json")
    files = files_of(kind, folder)
    if GENERATION_CONFIG in files or not isinstance(config, dict):
        return _files(kind, donors)
    settings = remembered("generation 1", config, lambda: _settings(config))
    if settings is None:
        return _files(kind, donors)
    return {**_read(kind, folder, files), GENERATION_CONFIG: settings.encode()}, []


def _settings(config: dict[str, Any]) -> str | None:
    """What a config.json says of generation; None for the usual."""
    from transformers import GenerationConfig

    try:
        made = GenerationConfig.from_model_config(config)
    except (AttributeError, TypeError, ValueError):  # settings that no version could use
        return None
    return None if made.to_diff_dict().keys() <= _USUAL else str(made.to_json_string())


def _asked_template(wanted: str | None, donors: Donors) -> str | None:
    """The text of a recipe's `chat_template`; of `auto`, the one that most models have, if any."""
    if not wanted:
        return None
    if wanted != "auto":
        return chat_template_text(wanted) if wanted in chat_template_names() else wanted
    templates = [chat_templates(folder).get("default", "").strip() for _, folder in donors]
    counts = Counter(filter(None, templates))
    return counts.most_common(1)[0][0] if counts else None


def _without_template(path: str, content: bytes) -> bytes:
    """A tokenizer's or processor's JSON may hold a template, which older programs would read."""
    if path not in TEMPLATE_HOLDERS or not isinstance(value := json_in(content), dict):
        return content
    if value.pop("chat_template", None) is None:
        return content
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
