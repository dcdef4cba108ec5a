"""Options as they are written in the program that runs, so that advice can be typed as it stands.

The same sentence is said by `mergekit-fair eval`, by a sweep, whose options stand in a YAML file,
and by lm-eval's own program.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

import click

# Characters that a choice_map on a command line gives a meaning of their own.
_SPECIAL = frozenset(":;,=\"'{}[]()")


def program() -> str:
    """`eval` or `sweep`, where one of these commands runs, or one with the options of `eval`; else
    `lm_eval`.
    """
    context = click.get_current_context(silent=True)
    name = context.info_name if context else None
    name = "eval" if name in ("audit", "heads", "learn") else name
    return name if name in ("eval", "sweep") else "lm_eval"


def another_file() -> str:
    """How a file takes the place of a task's data."""
    options = {"eval": "--data FILE", "sweep": "evaluate.data: FILE"}
    return "name a file: " + options.get(program(), """--metadata '{"data": "FILE"}'""")


def model_argument(name: str, value: str = "…") -> str:
    """How an argument of lm-eval's model class is given."""
    return {
        "eval": f"--model-args {name}={value}",
        "sweep": f"evaluate.model_args: {{{name}: {value}}}",
    }.get(program(), f"--model_args pretrained=…,{name}={value}")


def option(name: str) -> str:
    """What an option is called that has one name: `batch_size`, `apply_chat_template`."""
    return {"eval": f"--{name.replace('_', '-')}", "sweep": f"evaluate.{name}"}.get(
        program(), f"--{name}"
    )


def choice_map(classes: Mapping[str, int]) -> str:
    """How it is said which class each choice is."""
    if program() == "sweep":
        return "evaluate.model_args: " + json.dumps({"choice_map": classes}, ensure_ascii=False)
    is_plain = not any(_SPECIAL & set(choice) for choice in classes)
    if program() == "eval" and not is_plain:
        return f"--choice-map {shlex.quote(json.dumps(classes, ensure_ascii=False))}"
    if program() == "eval":
        pairs = ",".join(f"{choice}={index}" for choice, index in classes.items())
        return f'--choice-map "{pairs}"'
    if is_plain:
        pairs = ";".join(f"{choice}:{index}" for choice, index in classes.items())
        return f'--model_args "pretrained=…,choice_map={pairs}"'
    text = json.dumps({"pretrained": "…", "choice_map": classes}, ensure_ascii=False)
    return f"--model_args {shlex.quote(text)}"
