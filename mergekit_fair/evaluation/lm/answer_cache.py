"""lm-eval's `--use_cache` is keyed by the prompt alone; here it is tied to one model.

Without a guard, a second model is silently given the first one's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.errors import ConfigError

# Beside the answers, whose keys are digests in hexadecimal.
KEY = "mergekit-fair:model"

_FIX = "give --use_cache another path, or delete this file"


def tie_cache(cache: Any, name: str, identity: Mapping[str, object]) -> None:
    """Write whose answers an empty cache will hold, or check that they are this model's.

    Args:
        cache: lm-eval's SqliteDict, key → answer; None where there is no cache.
        name: of the model, for messages.
        identity: everything that decides its answers.

    Raises:
        ConfigError: the cache holds answers of another model, of one with other options, or of a
            model that nobody knows.
    """
    if cache is None:
        return
    where = f"--use_cache {getattr(cache, 'filename', '')}".strip()
    known = cache.get(KEY)
    if known is None:
        if len(cache):
            raise ConfigError(
                "this cache holds answers, and nothing says of which model", where=where, fix=_FIX
            )
        cache[KEY] = {"name": name, "identity": dict(identity)}
        cache.commit()
        return
    before = known["identity"]
    names = sorted({*before, *identity})
    differing = [key for key in names if before.get(key) != identity.get(key)]
    if differing:
        raise ConfigError(
            f"this cache holds answers of another model, or of one with other options "
            f"({known['name']}; not the same: {', '.join(differing)})",
            where=where,
            got=name,
            fix=_FIX,
        )


def require_key(holds: bool, what: str, where: str) -> None:
    """The prompt, which is the cache's key, decides the answer.

    Args:
        holds: whether it does.
        what: the model looks at, in place of the prompt.
        where: the task.

    Raises:
        ConfigError: it does not: other documents would be given this one's answer.
    """
    if not holds:
        raise ConfigError(
            f"--use_cache finds answers by the prompt, which does not hold the document's {what}",
            where=where,
            fix=f"leave --use_cache out, or let the task's prompt hold the {what}",
        )
