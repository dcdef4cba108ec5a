"""What transformers and mergekit have answered before about a config.json and tensors.

Whether transformers loads a checkpoint whole, or which tensors mergekit plans, is a function of
config.json, of the tensors' names and shapes, and of the packages' versions. To ask it, the model's
class is imported, which takes longer than the merge of a small model: the answer is kept under the
cache folder. A refusal is an error, and never kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mergekit_fair.files import cache_folder, write_cached

_DECIDING = ("transformers", "mergekit", "torch", "peft", "accelerate")


def remembered(question: str, about: Any, ask: Callable[[], Any]) -> Any:
    """The answer to a question, from the cache or asked now.

    >>> remembered("sum", None, lambda: {"of": (1, 2), "is": 3})
    {'of': [1, 2], 'is': 3}

    Args:
        question: what is asked, with a number that changes whenever the code that asks does.
        about: all that the answer depends on, beside the packages' versions, as JSON; None where
            that is not known: it is asked every time.
        ask: gives the answer, as JSON.

    Returns:
        The answer as JSON reads it, whether it was kept or not: lists for tuples, texts for keys.

    Raises:
        Exception: whatever `ask` raises; it is asked again the next time.
    """
    if about is None:
        return json.loads(json.dumps(ask()))
    text = json.dumps([question, _versions(), about], sort_keys=True)
    file = cache_folder("answers") / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))["answer"]
    except (OSError, ValueError, LookupError, TypeError):
        made = json.dumps({"question": question, "answer": ask()})
    with contextlib.suppress(OSError):  # without it, it is asked again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_cached(file, made + "\n")
    return json.loads(made)["answer"]


@cache
def _versions() -> list[str]:
    """Of the packages that answer."""
    found = []
    for package in _DECIDING:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} is not there")
    return found
