"""`mergekit-fair eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.reading_options import model_arguments, model_options, reading_options
from mergekit_fair.cli.terminal import echo

if TYPE_CHECKING:
    from mergekit_fair.data import DataSpec
    from mergekit_fair.evaluation.evaluate import AnyEvaluation


class _BatchSize(click.ParamType):  # type: ignore[type-arg]
    name = "rows"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if str(value).isdigit() and int(value) > 0:
            return int(value)
        if str(value).split(":")[0] == "auto":
            return value
        return self.fail(f"{value!r} is neither a positive number nor auto", param, ctx)


@click.command("eval")
@click.option("--model", required=True, help="Folder of a model or adapter, or a name on the Hub.")
@click.option(
    "--tasks", help="Tasks, separated by commas; see tasks-dir. None: the rows of --data."
)
@click.option(
    "--split",
    type=click.Choice(("validation", "report")),
    default="validation",
    show_default=True,
    help="Which rows; open report once, for what validation has chosen.",
)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option("--overwrite", is_flag=True, help="Replace the evaluation that OUT holds.")
@click.option("--rows", is_flag=True, help="Also write OUT/rows_TASK.csv, a line for every row.")
@click.option(
    "--data",
    type=click.Path(),
    help="A data description (.yml), which is a task of its own without --tasks; with them it, or "
    "a table, takes the place of their data.",
)
@click.option("--question", help="Ends every prompt of --data; language models need it.")
@click.option("--batch-size", type=_BatchSize(), help="Rows of a forward pass, or auto.")
@click.option("--limit", type=click.IntRange(min=1), help="A random sample of so many rows.")
@model_options
@reading_options
@click.option(
    "--level",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An evaluation's file: level-matched figures are at its selection rate, or, if it is of "
    "this model on validation, at its threshold. Else at the share of positive labels.",
)
@click.option(
    "--threshold",
    metavar="P",
    help="1 is predicted where its probability is at least this; or 'level: labels' (as many as "
    "there are positive labels) or 'level: RATE'.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code that a model brings along.")
@click.option(
    "--allow-trained-rows",
    is_flag=True,
    help="Measure on rows that the model was trained on, too, and count them.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of bootstrap and prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluations as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Run lm-eval with the plug-in: accuracy, DPD, EOD per subgroup, with intervals.

    Writes OUT/TASK.json, one evaluation a task, OUT/samples_TASK.jsonl, lm-eval's samples, and
    OUT/lm_eval.json, its own results. Rows that the model was trained on are refused.

    \b
    Example:
      mergekit-fair eval --model runs/adult_sex/fft --tasks fair_adult_sex -o runs/adult_sex/eval
      mergekit-fair eval --model runs/comments/fft --data data.yml --rows -o runs/comments/eval
    """
    from mergekit_fair.cli.terminal import echo_json, quiet_libraries
    from mergekit_fair.files import made_folder, require_writable

    quiet_libraries(quiet=options["quiet"])
    with made_folder(options["out"]):
        require_writable(options["out"])  # an error here costs no forward pass
        evaluations, others = _evaluate(options)
    if options["as_json"]:
        echo_json([evaluation.to_dict() for evaluation in evaluations.values()])
        return
    from mergekit_fair.report.evaluation_text import evaluation_text, other_text

    parts = [evaluation_text(evaluation) for evaluation in evaluations.values()]
    parts += [other_text(task, results) for task, results in others.items()]
    echo("\n\n".join(parts))
    echo(f"\n{options['out']}")


def _evaluate(
    options: dict[str, Any],
) -> tuple[dict[str, AnyEvaluation], dict[str, dict[str, Any]]]:
    """Run, measure and write; the evaluations, and lm-eval's results of the other tasks."""
    from mergekit_fair.checkpoints.fingerprint import model_fingerprint
    from mergekit_fair.cli.terminal import Terminal
    from mergekit_fair.evaluation.cutoff import Cutoff
    from mergekit_fair.evaluation.eval_folder import require_free, write_evaluation
    from mergekit_fair.evaluation.eval_run import level_of, measure_run, run_tasks
    from mergekit_fair.evaluation.evidence import (
        checked_evaluation,
        prints_of_run,
        require_same_model,
    )
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.evaluation.run_files import run_files
    from mergekit_fair.fairness import MetricSettings

    out: Path = options["out"]
    require_free(out, overwrite=options["overwrite"])
    tasks = _tasks(options)
    progress = Terminal(quiet=options["quiet"])
    if options["level"] and (doubt := checked_evaluation(options["level"])[1]):
        progress.say(f"warning: {doubt}")
    level, thresholds = (
        level_of(options["level"], options["model"]) if options["level"] else (None, {})
    )
    settings = MetricSettings(
        reference=options["reference"],
        confidence=options["confidence"],
        min_group_size=options["min_group_size"],
        seed=options["seed"],
    )
    request = EvaluationRequest(
        tasks=tasks,
        data=options["data"] if options["tasks"] else None,
        question=options["question"],
        lm=options["lm"],
        model_args=model_arguments(options),
        batch_size=options["batch_size"],
        limit=options["limit"],
        num_fewshot=options["num_fewshot"],
        include_path=options["include_path"],
        apply_chat_template=options["apply_chat_template"],
        system_instruction=options["system_instruction"],
        seed=options["seed"],
        allow_trained_rows=options["allow_trained_rows"],
        min_group_size=options["min_group_size"],
    )
    threshold = options["threshold"]
    cutoff = None if threshold is None else Cutoff.parse(threshold, "--threshold")
    is_folder = Path(options["model"]).is_dir()
    before = model_fingerprint(options["model"], progress) if is_folder else None
    where = options["model"], options["split"], options["device"]
    finished = run_tasks(request, *where, progress, cutoff)
    evaluations = measure_run(finished, settings, level=level, thresholds=thresholds)
    prints = prints_of_run(finished.model, finished.arguments, before, progress)
    if options["level"]:
        require_same_model(options["level"], finished.model, prints)
    evaluations, files = run_files(finished, evaluations, prints, settings, rows=options["rows"])
    write_evaluation(out, files)
    others = {task: finished.results["results"][task] for task in finished.samples}
    return evaluations, {task: r for task, r in others.items() if task not in evaluations}


def _tasks(options: dict[str, Any]) -> tuple[str, ...] | DataSpec:
    """Names of tasks; without any, the description that `--data` names."""
    from mergekit_fair.data import load_spec
    from mergekit_fair.errors import ConfigError
    from mergekit_fair.evaluation.eval_folder import require_file_name

    data = options["data"]
    names = tuple(name.strip() for name in (options["tasks"] or "").split(",") if name.strip())
    if names and options["question"] is None:
        return names
    if names or not data or Path(data).suffix not in (".yml", ".yaml"):
        raise ConfigError(
            "--question is for a description without --tasks; tasks have their own"
            if names
            else "neither tasks nor a data description are given",
            where="--tasks",
            got=options["question"] if names else data,
            allowed=None if names else "--tasks NAME, or --data FILE.yml",
        )
    spec = load_spec(data)
    require_file_name(spec.name)
    return spec
