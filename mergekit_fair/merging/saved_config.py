"""config.json of a merged model, beside its finished weights.

transformers loads a model in the dtype that config.json names, whatever the file holds, and names
the classes as config.json does. mergekit writes the recipe's dtype as it is spelled there, or the
base's where the recipe names none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import read_config
from mergekit_fair.checkpoints.headers import TensorInfo
from mergekit_fair.checkpoints.reader import DTYPES, open_folder

_DTYPE_KEYS = ("dtype", "torch_dtype")  # the second until transformers 4.56


def complete_config(folder: Path, class_names: Mapping[str, str] | None = None) -> None:
    """Let config.json name the dtype of the weights beside it, and the classes.

    Args:
        folder: of a merged model.
        class_names: index, as text → name; None to leave them as they are.

    Raises:
        CheckpointError: a config.json or weights that cannot be read.
    """
    config = read_config(folder)
    reader = open_folder(folder, allow_pickle=True)
    dtype = stored_dtype(reader.tensors.values())
    reader.close()
    if dtype is not None:
        config = {**with_dtype(config, dtype), "dtype": dtype}
    if class_names is not None:
        config["id2label"] = dict(class_names)
        config["label2id"] = {name: int(index) for index, name in class_names.items()}
    text = json.dumps(dict(sorted(config.items())), indent=2) + "\n"  # as transformers writes it
    (folder / "config.json").write_text(text, encoding="utf-8")


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


def agreed_class_names(
    configs: Mapping[str, Any], head: Any = None
) -> tuple[dict[str, str] | None, list[str]]:
    """The names of the classes that only models other than the base give.

    Args:
        configs: model → its config.json; the base first.
        head: the recipe's policy; the base's head has the base's classes.

    Returns:
        Index, as text → name, or None if the base has names, no model has, or those that have do
        not agree with each other and with the base's number of classes; and what to say of it.
    """
    (base, own), *others = configs.items()
    held = {model: names for model, its in others if (names := class_names(its))}
    if class_names(own) or not held:
        return None, []
    (model, names), *rest = held.items()
    other = next((other for other, its in rest if its != names), None)
    if other is not None:
        why = f"{model} and {other} differ in them"
    elif head == "base":
        why = "the head is the base's"
    elif names.keys() != set(map(str, range(_class_count(own)))):
        why = f"{model} names classes {', '.join(names)} of {_class_count(own)}"
    else:
        return names, [f"the names of the classes are those of {model}: {base} has none"]
    return None, [f"no names of classes are written: {base} has none, and {why}"]


def class_names(config: Any) -> dict[str, str]:
    """Index, as text → name, of a config.json that names its classes; else empty.

    >>> class_names({"id2label": {"0": "no", "1": "yes"}})
    {'0': 'no', '1': 'yes'}
    >>> class_names({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})
    {}
    """
    names = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(names, dict):
        return {}
    found = {str(key): str(name) for key, name in names.items()}
    if all(name.startswith("LABEL_") for name in found.values()):
        return {}
    return found


def _class_count(config: Any) -> int:
    """Two where a config.json says nothing of them, as in transformers."""
    config = config if isinstance(config, dict) else {}
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else int(config.get("num_labels") or 2)
