"""`mergekit-fair hook`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import click

from mergekit_fair.cli.terminal import echo
from mergekit_fair.errors import ConfigError
from mergekit_fair.files import write_atomic

NAME = "mergekit_fair_hook.pth"
# The first line tells our file, of whatever version, from a foreign one of the same name.
MARK = "# Written by `mergekit-fair hook install`; `mergekit-fair hook remove` deletes it."
# `site` executes lines that start with `import`. Python must start in silence when the package is
# gone or damaged, or ends the process, so everything is swallowed; `hook status` tells.
LINE = (
    "import sys; "
    r'exec("try:\n from mergekit_fair.hook import arm\n arm()\nexcept BaseException: pass")'
)
CONTENT = f"{MARK}\n{LINE}\n"


@click.group("hook")
def command() -> None:
    """Let the stock commands of this environment see the plug-in by themselves.

    Opt-in: `install` writes one .pth file into site-packages, which makes every start of this
    environment's Python one to two milliseconds longer. Plain mergekit-yaml and mergekit-multi then
    know the merge methods; plain lm_eval knows fair-classifier, fair-image-classifier, fair_dpd and
    fair_eod (its own models stay as they are: `mergekit-fair exec lm_eval` guards them, too). Run
    `remove` before you uninstall mergekit-fair; a hook that is left behind does nothing.

    \b
    Example:
      mergekit-fair hook install
    """


@command.command("install")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def install(quiet: bool) -> None:
    """Write the .pth file; a second time changes nothing.

    \b
    Example:
      mergekit-fair hook install
    """
    path = _path()
    state = _state(path)
    _refuse_foreign(path, state)
    if state != "current":
        _write(path)
    if not _is_active():
        _delete(path)
        raise ConfigError(
            "this environment's Python cannot import mergekit_fair when it starts, so the hook "
            "would do nothing",
            where=path,
            fix="install mergekit-fair into this environment with pip",
        )
    if not quiet:
        done = {"absent": "installed", "outdated": "updated", "current": "already installed"}
        echo(f"{done[state]}: {path}")


@command.command("remove")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def remove(quiet: bool) -> None:
    """Delete the .pth file, if there is one.

    \b
    Example:
      mergekit-fair hook remove
    """
    path = _path()
    state = _state(path)
    _refuse_foreign(path, state)
    if state != "absent":
        _delete(path)
    if not quiet:
        echo(f"{'not installed' if state == 'absent' else 'removed'}: {path}")


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def status(as_json: bool) -> None:
    """Say whether the hook is installed, where, and whether it works.

    \b
    Example:
      mergekit-fair hook status --json
    """
    path = _path()
    state = _state(path)
    report = {
        "installed": state in ("current", "outdated"),
        "outdated": state == "outdated",
        "foreign": state == "foreign",
        "active": _is_active(),
        "path": str(path),
    }
    if as_json:
        echo(json.dumps(report, indent=2))
        return
    text = f"{'installed' if report['installed'] else 'not installed'}: {path}"
    if report["outdated"]:
        text += " (outdated; `mergekit-fair hook install` renews it)"
    elif report["foreign"]:
        text += " (a file that mergekit-fair did not write)"
    if report["installed"] and not report["active"]:
        text += " (without effect: Python cannot import mergekit_fair when it starts)"
    echo(text)


def _path() -> Path:
    return Path(sysconfig.get_path("purelib")) / NAME


def _state(path: Path) -> str:
    """One of `absent`, `current`, `outdated` and `foreign`."""
    if not os.path.lexists(path):
        return "absent"
    if path.is_symlink() or not path.is_file():
        return "foreign"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "foreign"
    lines = text.splitlines()
    # Ours never had a third line: somebody else's work would be lost.
    if lines[:1] != [MARK] or len(lines) > 2:
        return "foreign"
    return "current" if text == CONTENT else "outdated"


def _refuse_foreign(path: Path, state: str) -> None:
    if state == "foreign":
        raise ConfigError(
            "is in the hook's place, and mergekit-fair did not write it",
            where=path,
            fix="move or delete it yourself",
        )


def _is_active() -> bool:
    """Whether a new Python of this environment arms the hook when it starts."""
    code = "import sys; sys.exit('mergekit_fair.hook' not in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL)
    return run.returncode == 0


def _write(path: Path) -> None:
    try:
        write_atomic(path, CONTENT)
    except OSError as error:
        raise _denied(path, error) from error


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _denied(path, error) from error


def _denied(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot write into this environment's site-packages ({error.strerror or error})",
        where=path.parent,
        fix="use a virtual environment of your own, or `mergekit-fair exec PROGRAM …`, which "
        "needs no hook",
    )
