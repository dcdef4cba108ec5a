"""`mergekit-fair audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.reading_options import model_arguments, model_options, reading_options
from mergekit_fair.cli.terminal import echo

if TYPE_CHECKING:
    from mergekit_fair.audit.audit_results import AuditResults

NOT_MET = 3  # exit code: a requirement is not met


@click.command("audit")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tasks", required=True, help="Tasks, separated by commas; see tasks-dir.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option(
    "--require",
    "requirements",
    multiple=True,
    metavar="WHAT",
    help='Such as "fair_bbq/bias_ambig <= base + 0.02"; may be repeated. Exit code 3 if not met.',
)
@click.option(
    "--merged",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The merge, if it exists; else it is made in memory.",
)
@click.option(
    "--split",
    type=click.Choice(("validation", "report")),
    default="report",
    show_default=True,
    help="Which documents.",
)
@click.option("--limit", type=click.IntRange(min=1), help="So many documents, in whole clusters.")
@click.option("--data", type=click.Path(), help="A file in the place of the tasks' data.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows of a forward pass.")
@model_options
@reading_options
@click.option("--trust-remote-code", is_flag=True, help="Run code that a model brings along.")
@click.option(
    "--allow-trained-rows",
    is_flag=True,
    help="Measure on rows that a model was trained on, too, and count them.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of draws and prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print audit.json.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """What a merge did to bias, against its base and every parent: any mergekit recipe.

    Base, parents and merge answer the same documents in one process, and differences are paired.
    Writes OUT/audit.json, OUT/report.html, and OUT/models/NAME as `eval` does; the same command
    again runs only what is not measured yet. Exit code 3: a requirement is not met.

    \b
    Example:
      mergekit-fair audit recipe.yml --tasks fair_bbq --limit 2000 -o runs/audit
      mergekit-fair audit recipe.yml --tasks fair_bbq -o runs/audit \\
          --require "fair_bbq/bias_ambig <= base + 0.02" --require "fair_bbq/acc >= 0.4"
    """
    from mergekit_fair.cli.terminal import echo_json, quiet_libraries
    from mergekit_fair.files import made_folder, require_writable
    from mergekit_fair.report.audit_report import audit_text

    quiet_libraries(quiet=options["quiet"])
    with made_folder(options["out"]):
        require_writable(options["out"])
        results = _audit(options)
    if options["as_json"]:
        echo_json(results.to_dict())
    else:
        echo(f"{audit_text(results)}\n\n{options['out']}")
    if not results.is_met:
        raise click.exceptions.Exit(NOT_MET)


def _audit(options: dict[str, Any]) -> AuditResults:
    from mergekit_fair.audit.audit_figures import AuditSettings
    from mergekit_fair.audit.audit_run import run_audit
    from mergekit_fair.audit.requirement import Requirement
    from mergekit_fair.cli.terminal import Terminal
    from mergekit_fair.errors import ConfigError
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.fairness import MetricSettings
    from mergekit_fair.report.audit_report import write_audit_page
    from mergekit_fair.sweep.worst_report import load_checked_recipe

    requirements = tuple(Requirement.parse(text) for text in options["requirements"])
    tasks = tuple(name.strip() for name in options["tasks"].split(",") if name.strip())
    if not tasks:
        raise ConfigError("names no task", where="--tasks", got=options["tasks"])
    kept = ("data", "lm", "batch_size", "limit", "num_fewshot", "include_path")
    request = EvaluationRequest(
        tasks=tasks,
        model_args=model_arguments(options),
        apply_chat_template=options["apply_chat_template"],
        system_instruction=options["system_instruction"],
        seed=options["seed"],
        allow_trained_rows=options["allow_trained_rows"],
        min_group_size=options["min_group_size"],
        **{key: options[key] for key in kept},
    )
    metrics = MetricSettings(
        options["reference"],
        options["confidence"],
        options["min_group_size"],
        seed=options["seed"],
    )
    settings = AuditSettings(
        request,
        metrics,
        options["split"],
        options["device"],
        requirements,
        options["merged"],
    )
    progress = Terminal(quiet=options["quiet"])
    recipe = load_checked_recipe(options["recipe"], progress)
    return run_audit(recipe, options["out"], settings, progress, write_audit_page)
