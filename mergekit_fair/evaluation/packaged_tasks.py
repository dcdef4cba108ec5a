"""The folder of the task suite, for `lm_eval --include_path`."""

from __future__ import annotations

from pathlib import Path

import mergekit_fair
from mergekit_fair.errors import ConfigError


def tasks_dir() -> Path:
    """`evals/` of the installed wheel or of the checkout.

    Raises:
        ConfigError: it is in neither.
    """
    package = Path(mergekit_fair.__file__).parent
    places = (package / "_evals", package.parent / "evals")
    for place in places:
        if place.is_dir():
            return place
    raise ConfigError(
        "the task suite is missing from this installation", where=places[0], fix="reinstall it"
    )
