"""Files that come with the package: recipes, and the task suite for `lm_eval --include_path`."""

from __future__ import annotations

from pathlib import Path

import mergekit_fair
from mergekit_fair.errors import ConfigError


def recipes_folder(name: str) -> Path:
    """`recipes/<name>` of the installed wheel or of the checkout.

    Raises:
        ConfigError: there is no such folder; lists those that are.
    """
    package = Path(mergekit_fair.__file__).parent
    installed = package / "_recipes"
    root = installed if installed.is_dir() else package.parent / "recipes"
    folder = root / name
    if not folder.is_dir():
        names = (
            sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        )
        raise ConfigError("no recipes of this name", where=root, got=name, allowed=names)
    return folder


def tasks_dir() -> Path:
    """`evals/` of the installed wheel or of the checkout.

    Raises:
        ConfigError: it is in neither.
    """
    package = Path(mergekit_fair.__file__).parent
    folders = (package / "_evals", package.parent / "evals")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ConfigError(
        "the task suite is missing from this installation", where=folders[0], fix="reinstall it"
    )
