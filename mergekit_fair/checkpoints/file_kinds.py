"""What belongs to a model and lies beside its weights, by kind, as it is found in a folder.

Patterns name what transformers, Sentence-Transformers and mistral-common read. All else stays
where it is: weights, the state of a training, cards, notebooks, whatever is hidden.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from mergekit_fair.checkpoints.folder import VECTOR, inside
from mergekit_fair.errors import CheckpointError
from mergekit_fair.schema import parse_json

Files = dict[str, Path]

TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
# A template may lie in these, under `chat_template`.
TEMPLATE_HOLDERS = (TOKENIZER_CONFIG, "processor_config.json")
MODULES = "modules.json"

WEIGHTS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"),
    *(".pkl", ".pickle", ".joblib", ".npz", ".npy"),
)
# Beside weights, of any model; and what a training saves to go on with, in files of weights' kinds.
_CONFIGURATION = ("config.json", "adapter_config.json", VECTOR, "*.index.json", "*.py")
_OF_TRAINING = (
    *("training_args.bin", "optimizer.*", "scheduler.*", "scaler.pt", "rng_state*.pth"),
    "random_states_*.pkl",
)


@dataclass(frozen=True)
class FileKind:
    """Files that make one thing together.

    Attributes:
        title: as notes name it.
        patterns: of paths in a model folder.
        is_text: whether --no-copy-tokenizer leaves it out.
    """

    title: str
    patterns: tuple[str, ...]
    is_text: bool = False


# The second line on: of single families, and of models with code of their own.
_TOKENIZER = (
    *("tokenizer.json", "tokenizer.*.json", TOKENIZER_CONFIG, "special_tokens_map.json"),
    *("added_tokens.json", "normalizer.json", "merges.txt", "bpe.codes", "dict.txt", "emoji.json"),
    *("vocab.txt", "vocab.json", "vocab-src.json", "vocab-tgt.json", "target_vocab.json"),
    *("entity_vocab.json", "word_pronunciation.json", "word_shape.json", "byte_maps.json"),
    *("tokenizer.model", "tokenizer.model.v*", "spiece.model", "spm.model", "spm_char.model"),
    *("sentencepiece.model", "sentencepiece.bpe.model", "*.spm", "prophetnet.tokenizer"),
    *("*.tiktoken", "tiktoken.model", "tekken.json", "vocab.bpe", "encoder.json", "ice_text.model"),
)
# A processor with several tokenizers keeps the others in folders of their own.
TOKENIZER = FileKind(
    "tokenizer", (*_TOKENIZER, *(f"*_tokenizer/{name}" for name in _TOKENIZER)), is_text=True
)
CHAT_TEMPLATE = FileKind(
    "chat template", (TEMPLATE, "chat_template.json", f"{TEMPLATES}/*.jinja"), is_text=True
)
GENERATION = FileKind("generation config", (GENERATION_CONFIG, "custom_generate/*"))
PROCESSOR = FileKind(
    "processor",
    (
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        *("audio_tokenizer_config.json", "alphabet.json", "language_model/*"),
    ),
)
PIPELINE = FileKind(
    "Sentence-Transformers pipeline",
    (
        *(MODULES, "config_sentence_transformers.json", "sentence_*_config.json"),
        *("config_setfit.json", "model_head.pkl"),
    ),
)
KINDS = (TOKENIZER, CHAT_TEMPLATE, GENERATION, PROCESSOR, PIPELINE)


def files_of(kind: FileKind, folder: Path) -> Files:
    """Path in the folder → file, of everything of a kind, the code that it names included.

    Of a pipeline also the folders of its modules, with their weights.
    """
    files = _matching(folder, kind.patterns)
    if kind is PIPELINE:
        for name in module_folders(folder):
            files |= _below(folder, folder / name)
    if any(_names_code(path) for path in files.values()):
        files |= _matching(folder, ("*.py",))
    return files


def deciding_files(folder: Path) -> Files:
    """Path in a model folder → file, of all that decides what the model answers, sorted.

    Weights of every format, configuration, code and what belongs to a kind of `KINDS`; neither
    what a training leaves beside them nor cards, results, or anything hidden.
    """
    patterns = (*_CONFIGURATION, *(f"*{end}" for end in WEIGHTS))
    found = _matching(folder, patterns)
    for kind in KINDS:
        found |= files_of(kind, folder)
    return {
        path: file
        for path, file in sorted(found.items())
        if file.is_file() and not any(fnmatchcase(path, pattern) for pattern in _OF_TRAINING)
    }


def code_of(folder: Path) -> Files:
    """The Python files of a model whose config.json names them."""
    return _matching(folder, ("*.py",)) if _names_code(folder / "config.json") else {}


def module_folders(folder: Path) -> list[str]:
    """The folders in a model folder that its `modules.json` names."""
    names = (module.get("path") for module in _modules(folder / MODULES))
    return [
        name
        for name in names
        if isinstance(name, str)
        and name
        and not any(part.startswith((".", "/")) for part in PurePosixPath(name).parts)
        and (folder / name).is_dir()
    ]


def is_weights(path: str) -> bool:
    """
    >>> is_weights("2_Dense/model.safetensors"), is_weights("1_Pooling/config.json")
    (True, False)
    """
    return path.endswith(WEIGHTS)


def content_of(kind: FileKind | None, folder: Path, file: Path) -> bytes:
    """What a file of a kind, or of none, holds.

    Raises:
        CheckpointError: it cannot be read, or it is a link out of a downloaded model.
    """
    try:
        if not file.is_file() and not file.is_dir():  # a pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, "No such file")
        for part in (file, *file.parents):
            if part == folder:
                break
            inside(folder, part)
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"its {file.relative_to(folder).as_posix()} could not be copied ({error.strerror})",
            where=folder,
            fix="make the file readable"
            + (", or pass --no-copy-tokenizer" if kind and kind.is_text else ""),
        ) from error


def json_of(file: Path) -> Any:
    """What a JSON file says; None if there is none that can be read."""
    try:
        return json_in(file.read_bytes()) if file.is_file() else None
    except OSError:
        return None


def json_in(content: bytes) -> Any:
    """What JSON says; None if it is none."""
    try:
        return parse_json(content.decode("utf-8"))
    except ValueError:
        return None


def chat_templates(folder: Path) -> dict[str, str]:
    """Name → template, wherever transformers finds them; `default` is the one without a name."""
    found: dict[str, str] = {}
    for name in (*TEMPLATE_HOLDERS, "chat_template.json"):
        file = folder / name
        content = json_in(content_of(CHAT_TEMPLATE, folder, file)) if file.is_file() else None
        value = content.get("chat_template") if isinstance(content, dict) else None
        if isinstance(value, list):  # until transformers 4.50
            pairs = (item for item in value if isinstance(item, dict))
            value = {item.get("name"): item.get("template") for item in pairs}
        named = value if isinstance(value, dict) else {"default": value}
        found |= {
            key: text
            for key, text in named.items()
            if isinstance(text, str) and re.fullmatch(r"[\w-]+", str(key))
        }
    for path, file in _matching(folder, CHAT_TEMPLATE.patterns).items():
        if path.endswith(".jinja"):
            name = "default" if path == TEMPLATE else file.stem
            found[name] = content_of(CHAT_TEMPLATE, folder, file).decode("utf-8", "replace")
    return found


def _matching(folder: Path, patterns: tuple[str, ...]) -> Files:
    return {
        file.relative_to(folder).as_posix(): file
        for pattern in patterns
        for file in _matches(folder, pattern)
    }


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    """As `glob`, but without what is hidden, and with links that lead nowhere."""
    head, _, rest = pattern.partition("/")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not fnmatchcase(entry.name, head):
            continue
        if not rest:
            yield entry
        elif entry.is_dir():
            yield from _matches(entry, rest)


def _modules(file: Path) -> list[dict[str, Any]]:
    content = json_of(file)
    return [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []


def _below(folder: Path, module: Path) -> Files:
    """All files of a module's folder, without what is hidden or compiled."""
    found: Files = {}
    for entry in sorted(module.iterdir()):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if not entry.is_dir():
            found[entry.relative_to(folder).as_posix()] = entry
        elif not entry.is_symlink():  # links may lead round in circles
            found |= _below(folder, entry)
    return found


def _names_code(file: Path) -> bool:
    """Whether a JSON file names classes that are not the library's own."""
    if file.name == MODULES:
        types = (str(module.get("type")) for module in _modules(file))
        return not all(name.startswith("sentence_transformers.") for name in types)
    if not file.name.endswith("config.json"):
        return False
    content = json_of(file)
    return isinstance(content, dict) and "auto_map" in content
