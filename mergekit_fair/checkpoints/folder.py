"""What lies in a model folder: files, tensors; no weights are read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.headers import (
    COPY_AGAIN,
    Stored,
    TensorInfo,
    header_bytes,
    read_header,
    unreadable,
)
from mergekit_fair.errors import CheckpointError
from mergekit_fair.files import text_of
from mergekit_fair.schema import nearest, parse_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Marks a folder that holds a task vector, the difference from a model.
VECTOR = "task_vector.json"


def weight_files(folder: str | Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder, shards in order.

    Raises:
        CheckpointError: no such folder, no weights, pickled weights only, a damaged index, two
            sets of weights, or files that lie elsewhere. Or a vector folder.
    """
    return files_in(model_folder(folder))


def files_in(folder: Path) -> tuple[Path, ...]:
    """As `weight_files`, of a folder that is there: of a model or of a task vector."""
    if (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            raise CheckpointError(
                f"holds {SINGLE}, which transformers reads, and {INDEX}, which mergekit reads",
                where=folder,
                fix="delete the outdated one",
            )
        return shard_files(folder, folder / INDEX)
    if (folder / SINGLE).is_file():
        return (inside(folder, folder / SINGLE),)
    raise _no_weights(folder)


def model_folder(folder: str | Path) -> Path:
    """The folder as a path.

    Raises:
        CheckpointError: as `found_folder`, or the folder holds a task vector, which is no model.
    """
    folder = found_folder(folder)
    require_no_vector(folder)
    return folder


def require_no_vector(folder: str | Path) -> None:
    """Refuse a task vector in the place of a whole model.

    Raises:
        CheckpointError: the folder has the marker of one.
    """
    if (Path(folder) / VECTOR).is_file():
        raise CheckpointError(
            f"holds a task vector ({VECTOR}), the difference from a model, and a whole model is "
            "needed here",
            where=folder,
            fix="add it to its target: list it under models of a recipe whose base_model is the "
            "target, and give what `mergekit-fair merge` writes",
        )


def found_folder(folder: str | Path) -> Path:
    """The folder as a path: of a model or of a task vector.

    Raises:
        CheckpointError: there is none; names the nearest one beside it. Or a base with an adapter.
    """
    folder = Path(folder)
    if not folder.is_dir():
        base, _, adapter = str(folder).partition("+")
        if adapter and Path(base).is_dir() and (Path(adapter) / "adapter_config.json").is_file():
            raise _adapter(folder)
        raise CheckpointError(f"no such model folder{sibling(folder)}", where=folder)
    return folder


def shard_files(folder: Path, index: Path) -> tuple[Path, ...]:
    """The files that an index of shards names, sorted.

    Raises:
        CheckpointError: an index that cannot be read, or files that are missing or elsewhere.
    """
    names = sorted(set(_weight_map(inside(folder, index)).values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(
                "names a file outside the model folder",
                where=index,
                got=name,
                allowed="names of files beside the index",
                fix=COPY_AGAIN,
            )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            "shards named in the index are missing", where=folder, got=missing[:8], fix=COPY_AGAIN
        )
    return tuple(inside(folder, folder / name) for name in names)


def inside(folder: Path, file: Path) -> Path:
    """The file, unless it is a link that leads out of a downloaded folder.

    In a folder of the user's own, links are followed wherever they lead, as transformers does. In
    one that was downloaded (a snapshot in the Hub's cache, or `hf download --local-dir`) a link
    may lead into the folder and, from a snapshot, into the `blobs` beside it: no other link is the
    Hub's, and what it leads to would be published with the merged model.

    Raises:
        CheckpointError: such a link.
    """
    if not file.is_symlink():
        return file
    real, home = file.resolve(), folder.resolve()
    is_snapshot = home.parent.name == "snapshots"
    is_downloaded = is_snapshot or (home / ".cache" / "huggingface").is_dir()
    blobs = home.parent.parent / "blobs" if is_snapshot else home
    if is_downloaded and not (real.is_relative_to(home) or real.is_relative_to(blobs)):
        raise CheckpointError(
            "is a link out of the downloaded model",
            where=file,
            got=str(real),
            fix="copy the file into the folder if you trust it",
        )
    return file


def stored_tensors(folder: str | Path) -> dict[str, Stored]:
    """Tensor name → where it lies, over all shards, sorted by name.

    Raises:
        CheckpointError: as `weight_files` and `read_header`, or a tensor in two shards.
    """
    return stored_in(model_folder(folder))


def stored_in(folder: Path) -> dict[str, Stored]:
    """As `stored_tensors`, of a folder that is there: of a model or of a task vector."""
    tensors: dict[str, Stored] = {}
    for file in files_in(folder):
        for name, stored in read_header(file).items():
            if name in tensors:
                raise twice(name, folder, [tensors[name].file.name, file.name])
            tensors[name] = stored
    if (folder / INDEX).is_file():
        require_indexed(folder / INDEX, tensors)
    return dict(sorted(tensors.items()))


def tensor_infos(folder: str | Path) -> dict[str, TensorInfo]:
    """Tensor name → dtype and shape, over all shards, sorted by name.

    Raises:
        CheckpointError: as `stored_tensors`.
    """
    return {name: stored.info for name, stored in stored_tensors(folder).items()}


def digest_of(files: Iterable[Path]) -> str:
    """A digest of the files' names, sizes, times of change and safetensors headers."""
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        # Both times: the first can be set by anybody, as `cp -p` and `rsync -t` do.
        times = f"{state.st_mtime_ns}:{state.st_ctime_ns}"
        digest.update(f"{file.name}:{state.st_size}:{times}\n".encode())
        digest.update(header_bytes(file) if file.suffix == ".safetensors" else b"")
    return digest.hexdigest()


def require_same_tensors(base: str | Path, models: list[str]) -> None:
    """Every model must have exactly the base's tensor names and shapes.

    Raises:
        CheckpointError: names the model and the first tensors that differ.
    """
    expected = tensor_infos(base)
    for model in models:
        require_equal(str(base), expected, model, tensor_infos(model))


def require_equal(
    base: str, expected: Mapping[str, TensorInfo], model: str, tensors: Mapping[str, TensorInfo]
) -> None:
    """`require_same_tensors` for one model of known tensors; integers must be integers in both.

    Raises:
        CheckpointError: names the model and the first tensors that differ.
    """
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing or extra:
        raise CheckpointError(
            f"its tensors are not the base's ({base}): {len(missing)} missing "
            f"{missing[:3]}, {len(extra)} more {extra[:3]}",
            where=model,
            fix="merge models of one architecture, fine-tuned from this base",
        )
    for name, info in expected.items():
        if tensors[name].shape != info.shape:
            raise CheckpointError(
                f"tensor {name} has another shape than the base's ({base})",
                where=model,
                got=tensors[name].shape,
                allowed=str(info.shape),
                fix=_bring_together({base: info.shape, model: tensors[name].shape}),
            )
        if tensors[name].is_float != info.is_float:
            raise CheckpointError(
                f"tensor {name} has another kind of dtype than the base's ({base})",
                where=model,
                got=tensors[name].dtype,
                allowed=info.dtype,
                fix="merge models of one architecture, fine-tuned from this base",
            )


def _bring_together(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What to do with a tensor that differs in the number of tokens alone; None for any other."""
    if len({shape[1:] for shape in shapes.values()}) > 1:
        return None
    for model, shape in shapes.items():
        try:
            config = read_config(model.partition("+")[0])
        except CheckpointError:  # a name of the Hub
            return None
        text = config.get("text_config")
        sizes = [part.get("vocab_size") for part in (config, text) if isinstance(part, dict)]
        if shape[:1] not in [(size,) for size in sizes]:
            return None
    return "bring the vocabularies together with tokenizer: {source: union} (or base) in the recipe"


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = parse_json(text_of(index))
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) for name in weight_map.values()
        ):
            raise ValueError("it maps no tensors to files")
    except OSError as error:
        raise unreadable(index, error) from error
    except ValueError as error:
        raise CheckpointError(
            f"is not a readable index of shards ({error})", where=index, fix=COPY_AGAIN
        ) from error
    return weight_map


def twice(name: str, folder: object, files: list[str]) -> CheckpointError:
    """The error for a tensor that two shards hold."""
    return CheckpointError(
        f"tensor {name} lies in two files", where=folder, got=files, fix=COPY_AGAIN
    )


def require_indexed(index: Path, held: Collection[str]) -> None:
    """Check that the shards hold what their index names.

    transformers reads every tensor of the shards, also what the index leaves out (buffers of older
    versions, mostly) or puts into another shard.

    Args:
        index: a file.
        held: the tensors in all shards that it names.

    Raises:
        CheckpointError: names the first tensors that no shard holds.
    """
    missing = sorted(set(_weight_map(index)).difference(held))
    if missing:
        raise CheckpointError(
            f"names {len(missing)} tensors {missing[:3]} that its shards do not hold",
            where=index,
            fix=COPY_AGAIN,
        )


def _no_weights(folder: Path) -> CheckpointError:
    names = sorted(path.name for path in folder.iterdir())
    if any((folder / name).is_file() for name in PICKLES):
        return CheckpointError(
            "holds pickled weights only, and reading a pickle can run code",
            where=folder,
            got=[name for name in names if name.endswith(".bin")][:8],
            fix="save the model with safetensors, or pass `--allow-pickle` where a command has it "
            "and you trust the file",
        )
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder)
    if error := adapters_below(folder):
        return error
    if any(name.endswith(".gguf") for name in names):
        return CheckpointError(
            "holds GGUF files, which transformers' models are converted to, and no weights to "
            "merge",
            where=folder,
            got=[name for name in names if name.endswith(".gguf")][:8],
            fix="give the model that they were converted from",
        )
    return CheckpointError(
        f"holds no {SINGLE}",
        where=folder,
        got=names[:8],
        fix="give the folder of a model that was saved with safetensors",
    )


def _adapter(where: Path) -> CheckpointError:
    return CheckpointError(
        "is a LoRA adapter, and a whole model is needed here",
        where=where,
        fix="merge it into its base first: PeftModel.from_pretrained(base, adapter)."
        "merge_and_unload(), or a recipe of this model alone over its base",
    )


def adapters_below(folder: Path) -> CheckpointError | None:
    """The error that names the adapters in folders below; None if there are none.

    peft makes a folder for each name but `default`, a Trainer for each checkpoint.
    """
    names = sorted(file.parent.name for file in folder.glob("*/adapter_config.json"))
    if not names:
        return None
    return CheckpointError(
        "holds LoRA adapters in folders of their own",
        where=folder,
        got=names[:8],
        fix=f"name one, as in {folder}/{names[0]}",
    )


def sibling(folder: Path) -> str:
    """`; did you mean 'x'?` for the folder beside it of the nearest name, or an empty string."""
    parent = folder.parent
    if not parent.is_dir():
        return ""
    return nearest(folder.name, sorted(path.name for path in parent.iterdir() if path.is_dir()))


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.json` as a mapping.

    Raises:
        CheckpointError: there is none, or it is not a JSON mapping.
    """
    file = Path(folder) / "config.json"
    try:
        if not file.is_file():  # a pipe would be waited for
            raise ValueError("no such file")
        config = parse_json(text_of(inside(Path(folder), file)))
        if not isinstance(config, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"its config.json cannot be read ({reason})", where=folder, fix=COPY_AGAIN
        ) from error
    return config


def self_contained(folder: str | Path) -> str | None:
    """The text of a config.json that says by itself what transformers makes of it.

    None for one that names code or other files, or no `model_type`: transformers then looks at
    more, even at the folder's name.

    Raises:
        CheckpointError: as `read_config`.
    """
    config = read_config(folder)
    asks = "auto_map" in config or "configuration_files" in config
    if asks or not isinstance(config.get("model_type"), str):
        return None
    return text_of(Path(folder) / "config.json")


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The class that a config.json names; None if it names none, or several.

    >>> architecture_of({"architectures": ["BertModel"]}), architecture_of({"architectures": None})
    ('BertModel', None)
    """
    names = config.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        return names[0]
    return None
