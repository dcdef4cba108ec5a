"""`mergekit-fair heads`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.reading_options import Pairs, reading_options
from mergekit_fair.cli.terminal import echo

if TYPE_CHECKING:
    from mergekit_fair.heads.head_results import HeadResults

_LARGEST = 1_000_000
KEPT = 3  # exit code: the target's head is kept, as where a sweep keeps FFT


class _Mu(click.ParamType):  # type: ignore[type-arg]
    """`auto`, or a number above 0 and up to a million: of more, nothing else would count."""

    name = "auto|N"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None or value == "auto":
            return None
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 < number <= _LARGEST:
            return self.fail(
                f"{value!r} is neither auto nor a number above 0 and up to {_LARGEST:,}", param, ctx
            )
        return number


@click.command("heads")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(), help="A data description (.yml).")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option(
    "--metric",
    type=click.Choice(("eod", "dpd")),
    default="eod",
    show_default=True,
    help="The gap to make smaller.",
)
@click.option(
    "--mu",
    type=_Mu(),
    default="auto",
    show_default=True,
    help="How much the gap counts against errors; auto: chosen by cross-fitting.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.01,
    show_default=True,
    help="Accuracy that --mu auto may give up on left-out validation rows.",
)
@reading_options
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows of a forward pass.")
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens kept of a text.")
@click.option("--choice-map", type=Pairs(), help="Which class a choice is: no=0,yes=1.")
@click.option("--device", default="auto", show_default=True, help="torch device.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of folds and draws."
)
@click.option("--overwrite", is_flag=True, help="Replace the heads that OUT holds.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that a model brings along.")
@click.option(
    "--allow-trained-rows",
    is_flag=True,
    help="Fit and measure on rows that the model was trained on, too, and count them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print heads.json.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Fit a fair head: task vectors in a classifier's last layer, written as a merge recipe.

    Directions come from training rows, coefficients from validation rows; report rows are opened
    once, for the head that was fitted. Group labels are needed to fit and none to predict. Writes
    OUT/vectors/, OUT/recipe.yml, OUT/heads.json and OUT/report.html. Exit code 3: the target's
    head is kept, since nothing better was found.

    \b
    Example:
      mergekit-fair heads runs/adult_sex/fft --data recipes/adult_sex/data.yml -o runs/heads
      mergekit-fair merge runs/heads/recipe.yml runs/adult_sex/fair
    """
    from mergekit_fair.cli.terminal import echo_json, quiet_libraries
    from mergekit_fair.report.heads_report import heads_text

    quiet_libraries(quiet=options["quiet"])
    results = _fit(options)
    if options["as_json"]:
        echo_json(results.to_dict())
    else:
        echo(heads_text(results, options["out"]))
    if results.stays is not None:
        raise click.exceptions.Exit(KEPT)


def _fit(options: dict[str, Any]) -> HeadResults:
    from mergekit_fair.cli.terminal import Terminal
    from mergekit_fair.data import load_spec
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.fairness import MetricSettings
    from mergekit_fair.heads.fair_head import HeadSettings
    from mergekit_fair.heads.head_run import run_heads
    from mergekit_fair.report.heads_report import write_heads_page

    settings = MetricSettings(
        reference=options["reference"],
        confidence=options["confidence"],
        min_group_size=options["min_group_size"],
        seed=options["seed"],
    )
    arguments = {
        key: options[key]
        for key in ("max_length", "choice_map", "trust_remote_code")
        if options[key]
    }
    request = EvaluationRequest(
        tasks=load_spec(options["data"]),
        model_args=arguments,
        batch_size=options["batch_size"],
        allow_trained_rows=options["allow_trained_rows"],
        min_group_size=options["min_group_size"],
    )
    head = HeadSettings(
        options["metric"], options["mu"], options["tolerance"], seed=options["seed"]
    )
    return run_heads(
        request,
        str(options["model"]),
        options["out"],
        settings,
        head,
        Terminal(quiet=options["quiet"]),
        device=options["device"],
        overwrite=options["overwrite"],
        page=write_heads_page,
    )
