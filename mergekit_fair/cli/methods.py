"""`mergekit-fair methods`."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("methods")
@click.option("--all", "everything", is_flag=True, help="mergekit's own methods too.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def command(everything: bool, as_json: bool) -> None:
    """List the registered merge methods with their parameters.

    \b
    Example:
      mergekit-fair methods --json
    """
    import mergekit_fair

    mergekit_fair.register()
    from mergekit.merge_methods import registered_methods

    from mergekit_fair.methods.registry import METHODS

    methods = registered_methods() if everything else METHODS
    found = [_describe(method.spec) for method in methods]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for method in found:
        click.echo(
            f"{method['name']}  {method['pretty_name']}  {method['reference'] or ''}".rstrip()
        )
        for entry in method["parameters"]:
            default = "required" if entry["required"] else f"default {entry['default']}"
            text = f"  {entry['name']:<10} {entry['scope']:<9} {default:<14}"
            click.echo(f"{text} {entry['description'] or ''}".rstrip())


def _describe(spec: Any) -> dict[str, Any]:
    scopes = {"shared": "recipe", "non_base": "per model", "input": "per model"}
    return {
        "name": spec.name,
        "pretty_name": spec.pretty_name or spec.name,
        "reference": spec.reference_url,
        "base_model": spec.contract.base.value,
        "parameters": [
            {
                "name": parameter.name,
                "scope": scopes[parameter.scope.value],
                "required": parameter.required,
                "default": None if parameter.required else str(parameter.default),
                "description": parameter.description,
            }
            for parameter in spec.parameters
        ],
    }
