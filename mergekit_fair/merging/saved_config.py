"""config.json of a merged model, beside its finished weights.

transformers loads a model in the dtype that config.json names, whatever the file holds, names the
classes as config.json does, and refuses embeddings of another size. mergekit writes the base's
config.json, with the recipe's dtype as it is spelled there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import read_config
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.layout import Layout
from mergekit_fair.checkpoints.reader import DTYPES, open_folder

_DTYPE_KEYS = ("dtype", "torch_dtype")  # the second until transformers 4.56

# What transformers assumes, and puts into a config.json when it trains.
_ASSUMED = {"problem_type": "single_label_classification"}


def complete_config(folder: Path, settings: Mapping[str, Any], *, is_resized: bool = False) -> None:
    """Let config.json name the dtype of the weights beside it, and what else there is to say.

    Args:
        folder: of a merged model.
        settings: keys that it is to have.
        is_resized: vocabularies were brought together: it is to count the tokens that are there.

    Raises:
        CheckpointError: a config.json or weights that cannot be read.
    """
    config = read_config(folder)
    reader = open_folder(folder, allow_pickle=True)
    dtype = stored_dtype(reader.tensors.values())
    size = vocabulary_size(folder, reader.tensors) if is_resized else None
    reader.close()
    if dtype is not None:
        config = {**with_dtype(config, dtype), "dtype": dtype}
    if size is not None:
        inner = config.get("text_config")
        (inner if isinstance(inner, dict) else config)["vocab_size"] = size
    config |= settings
    text = json.dumps(dict(sorted(config.items())), indent=2) + "\n"  # as transformers writes it
    (folder / "config.json").write_text(text, encoding="utf-8")


def vocabulary_size(folder: Path, tensors: Mapping[str, TensorInfo]) -> int | None:
    """How many tokens the embeddings of a checkpoint have; None if they differ, or have none.

    Args:
        folder: with its config.json.
        tensors: of the checkpoint.
    """
    axes = Layout(folder).vocabulary_axes(tensors)
    sizes = {tensors[name].shape[axis] for name, axis in axes.items()}
    return sizes.pop() if len(sizes) == 1 else None


def stored_dtype(tensors: Iterable[TensorInfo]) -> str | None:
    """The floating dtype that holds most elements, as config.json spells it; None without one.

    >>> stored_dtype([TensorInfo("F32", (2,)), TensorInfo("BF16", (3,)), TensorInfo("I64", (9,))])
    'bfloat16'
    """
    elements: Counter[str] = Counter()
    for info in tensors:
        if info.is_float:
            elements[info.dtype] += info.count
    if not elements:
        return None
    ((most, _),) = elements.most_common(1)
    return str(DTYPES[most]).removeprefix("torch.")


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A copy whose dtypes, and those of the configurations in it, are `dtype`.

    >>> with_dtype({"torch_dtype": None, "text_config": {"dtype": "float16"}}, "float32")
    {'dtype': 'float32', 'text_config': {'dtype': 'float32'}}
    """
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if key in _DTYPE_KEYS:
            changed["dtype"] = dtype
        elif _is_config(key, value):
            changed[key] = with_dtype(value, dtype)
        else:
            changed[key] = value
    return changed


def _is_config(key: str, value: Any) -> bool:
    """A model's configuration inside another one; `dtype` of anything else is not a model's."""
    return (
        isinstance(value, dict)
        and (key.endswith("_config") or "model_type" in value)
        and key != "quantization_config"
    )


def agreed_settings(
    configs: Mapping[str, Any], head: Any = None
) -> tuple[dict[str, Any], list[str]]:
    """What only models other than the base say of the classes: their names, and their problem.

    Args:
        configs: model → its config.json; the base first.
        head: the recipe's policy; the base's head has the base's classes.

    Returns:
        Keys of config.json for the merged model, empty where the base says it, no model does, or
        those that do agree neither with each other nor with the base's number of classes; and
        what to tell.
    """
    (base, own), *others = configs.items()
    indices = [str(index) for index in range(_class_count(own))]
    settings: dict[str, Any] = {}
    notes: list[str] = []
    for title, told in (("names of the classes", class_names), ("problem_type", problem_type)):
        held = {model: its for model, config in others if (its := told(config))}
        if told(own) or all(its == _ASSUMED for its in held.values()):
            continue
        (model, its), *rest = held.items()
        other = next((other for other, theirs in rest if theirs != its), None)
        if other is not None:
            why = f"{model} and {other} differ in it"
        elif head == "base":
            why = "the head is the base's"
        elif list(its.get("id2label", indices)) != indices:
            why = f"{model} names classes {', '.join(its['id2label'])} of {len(indices)}"
        else:
            settings |= its
            notes.append(f"config.json has the {title} of {model}: {base} has none")
            continue
        notes.append(f"config.json has no {title}: {base} has none, and {why}")
    return settings, notes


def class_names(config: Any) -> dict[str, Any]:
    """`id2label` and `label2id` of a config.json that names its classes; else empty.

    >>> class_names({"id2label": {"0": "no", "1": "yes"}})
    {'id2label': {'0': 'no', '1': 'yes'}, 'label2id': {'no': 0, 'yes': 1}}
    >>> class_names({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    {}
    """
    names = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        return {}
    found = {str(key): str(names[key]) for key in sorted(names, key=int)}
    if all(name.startswith("LABEL_") for name in found.values()):
        return {}
    return {"id2label": found, "label2id": {name: int(index) for index, name in found.items()}}


def problem_type(config: Any) -> dict[str, Any]:
    """Whether classes exclude each other; it decides between softmax and sigmoid.

    >>> problem_type({"problem_type": "multi_label_classification"}), problem_type({})
    ({'problem_type': 'multi_label_classification'}, {})
    """
    told = config.get("problem_type") if isinstance(config, dict) else None
    return {"problem_type": told} if isinstance(told, str) else {}


def _class_count(config: Any) -> int:
    """Two where a config.json says nothing of them, as in transformers."""
    config = config if isinstance(config, dict) else {}
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else int(config.get("num_labels") or 2)
