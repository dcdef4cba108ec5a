"""`mergekit-fair methods`."""

from __future__ import annotations

import inspect
from typing import Any

import click

from mergekit_fair.cli.terminal import echo

_MARKS = ("Concept", "Inputs", "Key parameters", "Numerics", "Source")
_SCOPES = {"shared": "recipe", "non_base": "per model", "input": "per model"}


@click.command("methods")
@click.option("--all", "everything", is_flag=True, help="mergekit's own methods too.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option("--markdown", "as_markdown", is_flag=True, help="The table of docs/methods.md.")
def command(everything: bool, as_json: bool, as_markdown: bool) -> None:
    """List the registered merge methods with their parameters.

    \b
    Example:
      mergekit-fair methods --json
    """
    from mergekit_fair.cli.terminal import echo_json
    from mergekit_fair.merging.methods.registry import METHODS

    described = [_describe(method) for method in (_registered() if everything else METHODS)]
    if as_json:
        echo_json(described)
    elif as_markdown:
        echo("\n".join(_markdown(described)))
    else:
        echo("\n".join(_text(described)))


def _registered() -> list[Any]:
    """All that mergekit knows; ours as they are."""
    from mergekit.merge_methods import registered_methods

    from mergekit_fair.merging.methods.registry import register_methods

    register_methods()
    return [getattr(method, "method", method) for method in registered_methods()]


def _text(described: list[dict[str, Any]]) -> list[str]:
    lines = []
    for method in described:
        title = f"{method['name']}  {method['pretty_name']}  {method['reference'] or ''}"
        lines.append(title.rstrip())
        if method["formula"]:
            lines.append(f"  {method['formula']}")
        for entry in method["parameters"]:
            default = "required" if entry["required"] else f"default {entry['default']}"
            text = f"  {entry['name']:<13} {entry['scope']:<9} {default:<17}"
            lines.append(f"{text} {entry['description'] or ''}".rstrip())
    return lines


def _markdown(described: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Merge methods",
        "",
        "Made by `mergekit-fair methods --markdown` from the registered methods. Each has a recipe",
        "in `recipes/methods/`; `weight`, `lambda` and all other numbers take mergekit's layer",
        "gradients and filters.",
        "",
        "| method | result | source | recipe |",
        "|---|---|---|---|",
    ]
    for method in described:
        arxiv = (method["reference"] or "").rsplit("/", 1)[-1]
        source = f"[arXiv {arxiv}]({method['reference']})"
        recipe = f"`recipes/methods/{method['name']}.yml`"
        lines.append(f"| `{method['name']}` | {method['formula']} | {source} | {recipe} |")
    for method in described:
        lines += ["", f"## {method['pretty_name']} (`{method['name']}`)", ""]
        lines += [*_paragraphs(method["doc"]), ""]
        lines += ["| parameter | where | default | meaning |", "|---|---|---|---|"]
        for entry in method["parameters"]:
            default = "required" if entry["required"] else f"`{entry['default'] or '—'}`"
            lines.append(
                f"| `{entry['name']}` | {entry['scope']} | {default} | {entry['description']} |"
            )
    return lines


def _paragraphs(doc: str) -> list[str]:
    """A docstring's body, its marked lines (`Concept: …`) as a list."""
    lines: list[str] = []
    for line in doc.splitlines():
        mark, colon, rest = line.partition(": ")
        if colon and mark in _MARKS:
            is_first = not any(text.startswith("- ") for text in lines)
            lines += [""] * (is_first and bool(lines)) + [f"- **{mark}:** {rest}"]
        else:
            lines.append(f"  {line}" if lines and lines[-1].startswith(("- ", "  ")) else line)
    return lines


def _describe(method: Any) -> dict[str, Any]:
    spec = method.spec
    is_ours = type(method).__module__.startswith("mergekit_fair.")
    text = inspect.cleandoc(type(method).__doc__ or "") if is_ours else ""
    formula, _, rest = text.partition("\n")
    return {
        "name": spec.name,
        "pretty_name": spec.pretty_name or spec.name,
        "formula": formula.rstrip("."),
        "doc": rest.strip(),
        "reference": spec.reference_url,
        "base_model": "required" if is_ours else spec.contract.base.value,
        "parameters": [
            {
                "name": parameter.name,
                "scope": _SCOPES[parameter.scope.value],
                "required": parameter.required,
                "default": None if parameter.required else str(parameter.default),
                "description": parameter.description,
            }
            for parameter in spec.parameters
        ],
    }
