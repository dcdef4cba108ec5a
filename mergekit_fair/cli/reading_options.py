"""How models are run and figures are read: options that commands which measure have alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import yaml

Command = Callable[..., Any]

# As `fairness.settings` has them, which would import numpy for `--help`; a test compares.
_REFERENCES = ("between_groups", "one_vs_rest", "to_overall")
_MIN_GROUP_SIZE = 30


def reading_options(command: Command) -> Command:
    """Add `--reference`, `--confidence` and `--min-group-size` to a command."""
    for option in (
        click.option(
            "--min-group-size",
            type=click.IntRange(min=1),
            default=_MIN_GROUP_SIZE,
            show_default=True,
            help="Rows, of its own and of a label, that a group needs to decide a gap.",
        ),
        click.option("--confidence", type=click.FloatRange(0.5, 1, True, True), default=0.95),
        click.option(
            "--reference",
            type=click.Choice(_REFERENCES),
            default=_REFERENCES[0],
            show_default=True,
        ),
    ):
        command = option(command)
    return command


class Pairs(click.ParamType):  # type: ignore[type-arg]
    """`key=value,key=value`, or JSON, as a mapping; values as YAML reads them: `2` is a number."""

    name = "key=value,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, dict):
            return value
        pairs: dict[str, Any] = {}
        if str(value).startswith("{"):
            from mergekit_fair.schema import parse_json

            try:
                return dict(parse_json(str(value)))
            except (ValueError, TypeError):
                self.fail(f"{value!r} is no JSON object", param, ctx)
        for part in filter(None, str(value).split(",")):
            key, equals, text = part.partition("=")
            if not equals or not key.strip():
                self.fail(f"{part!r} is not key=value", param, ctx)
            try:
                pairs[key.strip()] = yaml.safe_load(text)
            except yaml.YAMLError:
                pairs[key.strip()] = text
        return pairs


def model_options(command: Command) -> Command:
    """Add the options that say how models are run by lm-eval."""
    for option in (
        click.option(
            "--include-path",
            type=click.Path(exists=True, file_okay=False),
            help="More tasks. Those of others are code: lm-eval runs their !function and "
            "templates.",
        ),
        click.option("--system-instruction", help="Begins every prompt of a language model."),
        click.option(
            "--apply-chat-template", is_flag=True, help="Put prompts into the model's template."
        ),
        click.option("--num-fewshot", type=click.IntRange(min=0), help="Examples in a prompt."),
        click.option("--device", default="auto", show_default=True, help="torch device."),
        click.option("--max-length", type=click.IntRange(min=1), help="Tokens kept of a text."),
        click.option("--choice-map", type=Pairs(), help="Which class a choice is: no=0,yes=1."),
        click.option(
            "--model-args", type=Pairs(), default="", help="More of its arguments: key=value,…"
        ),
        click.option("--lm", help="lm-eval's model class; found from the checkpoint if not given."),
    ):
        command = option(command)
    return command


def model_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What these options and `--trust-remote-code` give lm-eval's model class."""
    arguments = dict(options["model_args"])
    for key in ("choice_map", "max_length"):
        if options[key] is not None:
            arguments[key] = options[key]
    if options["trust_remote_code"]:
        arguments["trust_remote_code"] = True
    return arguments
