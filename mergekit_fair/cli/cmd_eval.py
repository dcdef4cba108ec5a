"""`mergekit-fair eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from mergekit_fair.cli.terminal import echo

if TYPE_CHECKING:
    from mergekit_fair.evaluation.evaluate import Evaluation, PreferenceEvaluation

_REFERENCES = ("between_groups", "one_vs_rest", "to_overall")


class _BatchSize(click.ParamType):  # type: ignore[type-arg]
    name = "rows"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if str(value).isdigit() and int(value) > 0:
            return int(value)
        if str(value).split(":")[0] == "auto":
            return value
        return self.fail(f"{value!r} is neither a positive number nor auto", param, ctx)


class _Pairs(click.ParamType):  # type: ignore[type-arg]
    """`key=value,key=value` as a mapping; values as YAML reads them: `2` is a number."""

    name = "key=value,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, dict):
            return value
        pairs: dict[str, Any] = {}
        for part in filter(None, str(value).split(",")):
            key, equals, text = part.partition("=")
            if not equals or not key.strip():
                self.fail(f"{part!r} is not key=value", param, ctx)
            try:
                pairs[key.strip()] = yaml.safe_load(text)
            except yaml.YAMLError:
                pairs[key.strip()] = text
        return pairs


@click.command("eval")
@click.option("--model", required=True, help="Folder of a model or adapter, or a name on the Hub.")
@click.option("--tasks", required=True, help="Tasks, separated by commas; see tasks-dir.")
@click.option(
    "--split",
    type=click.Choice(("validation", "report")),
    default="validation",
    show_default=True,
    help="Which rows; open report once, for what validation has chosen.",
)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option(
    "--data", type=click.Path(), help="A file in the place of the tasks' data, or a .yml."
)
@click.option("--lm", help="lm-eval's model class; found from the checkpoint if not given.")
@click.option("--model-args", type=_Pairs(), default="", help="More of its arguments: key=value,…")
@click.option("--choice-map", type=_Pairs(), help="Which class a choice is: no=0,yes=1.")
@click.option("--batch-size", type=_BatchSize(), help="Rows of a forward pass, or auto.")
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens kept of a text.")
@click.option("--device", default="auto", show_default=True, help="torch device.")
@click.option("--limit", type=click.IntRange(min=1), help="A random sample of so many rows.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Examples in a prompt.")
@click.option("--apply-chat-template", is_flag=True, help="Put prompts into the model's template.")
@click.option("--include-path", type=click.Path(exists=True, file_okay=False), help="More tasks.")
@click.option(
    "--reference", type=click.Choice(_REFERENCES), default=_REFERENCES[0], show_default=True
)
@click.option("--confidence", type=click.FloatRange(0.5, 1, True, True), default=0.95)
@click.option("--min-group-size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--level",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An evaluation's file: level-matched figures are at its selection rate, or, if it is of "
    "this model on validation, at its threshold. Else at the share of positive labels.",
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
    OUT/lm_eval.json, its own results.

    \b
    Example:
      mergekit-fair eval --model runs/adult_sex/fft --tasks fair_adult_sex -o runs/adult_sex/eval
    """
    from mergekit_fair.cli.terminal import echo_json, quiet_libraries

    quiet_libraries(quiet=options["quiet"])
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
) -> tuple[dict[str, Evaluation | PreferenceEvaluation], dict[str, dict[str, Any]]]:
    """Run, measure and write; the evaluations, and lm-eval's results of the other tasks."""
    from mergekit_fair.cli.terminal import Terminal
    from mergekit_fair.evaluation.eval_run import level_of, lines_of, measure_run, run_tasks
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.fairness import MetricSettings
    from mergekit_fair.files import write_atomic

    out: Path = options["out"]
    level, thresholds = (
        level_of(options["level"], options["model"]) if options["level"] else (None, {})
    )
    settings = MetricSettings(
        reference=options["reference"],
        confidence=options["confidence"],
        min_group_size=options["min_group_size"],
        seed=options["seed"],
    )
    arguments = dict(options["model_args"])
    for key in ("choice_map", "max_length"):
        if options[key] is not None:
            arguments[key] = options[key]
    if options["trust_remote_code"]:
        arguments["trust_remote_code"] = True
    request = EvaluationRequest(
        tasks=tuple(name for name in options["tasks"].split(",") if name),
        data=options["data"],
        lm=options["lm"],
        model_args=arguments,
        batch_size=options["batch_size"],
        limit=options["limit"],
        num_fewshot=options["num_fewshot"],
        include_path=options["include_path"],
        apply_chat_template=options["apply_chat_template"],
        seed=options["seed"],
        allow_trained_rows=options["allow_trained_rows"],
    )
    out.mkdir(parents=True, exist_ok=True)  # an error here costs no forward pass
    progress = Terminal(quiet=options["quiet"])
    finished = run_tasks(request, options["model"], options["split"], options["device"], progress)
    evaluations = measure_run(finished, settings, level=level, thresholds=thresholds)
    for task, samples in finished.samples.items():
        write_atomic(out / f"samples_{task}.jsonl", lines_of(samples))
    for task, evaluation in evaluations.items():
        text = json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(out / f"{task}.json", text + "\n")
    results = json.dumps(finished.results, indent=2, ensure_ascii=False, default=str)
    write_atomic(out / "lm_eval.json", results + "\n")
    others = {task: finished.results["results"][task] for task in finished.samples}
    return evaluations, {task: r for task, r in others.items() if task not in evaluations}
