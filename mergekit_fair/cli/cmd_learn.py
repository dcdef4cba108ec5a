"""`mergekit-fair learn`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.reading_options import Pairs
from mergekit_fair.cli.terminal import Terminal, echo, echo_json, quiet_libraries

if TYPE_CHECKING:
    from mergekit_fair.learn.learn_results import Learned

KEPT = 3  # exit code: the recipe is kept, as where a sweep keeps FFT


@click.command("learn")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(), help="A data description (.yml).")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder.")
@click.option(
    "--objective",
    type=click.Choice(("loss", "entropy", "dpd", "eod")),
    default="loss",
    show_default=True,
    help="Cross entropy; the entropy of predictions, which reads no label; or soft errors and a "
    "soft gap.",
)
@click.option(
    "--mu",
    type=click.FloatRange(0, 1_000_000, min_open=True),
    default=3.0,
    show_default=True,
    help="How much a gap counts against errors.",
)
@click.option(
    "--per",
    type=click.Choice(("model", "layer", "tensor")),
    default="tensor",
    show_default=True,
    help="What of each vector shares a number.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="More rounds, of one number a tensor for the merge's difference from the base (DV-BASI).",
)
@click.option(
    "--posterior",
    type=click.Choice(("none", "spike-and-slab")),
    default="none",
    show_default=True,
    help="Learn how likely each number is not 0, too, and keep expectations.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Over the validation rows, at most; cross-fitting chooses.",
)
@click.option("--folds", type=click.IntRange(min=2), default=3, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 10, min_open=True),
    default=0.01,
    show_default=True,
    help="Of Adam.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Rows of a step.",
)
@click.option("--bf16", is_flag=True, help="Compute steps in bfloat16: faster on many machines.")
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens kept of a text.")
@click.option("--choice-map", type=Pairs(), help="Which class a choice is: no=0,yes=1.")
@click.option(
    "--min-group-size",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Rows, of its own and of a label, that a group needs to decide a gap.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of folds and order."
)
@click.option("--device", default="auto", show_default=True, help="torch device.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that a model brings along.")
@click.option(
    "--allow-trained-rows",
    is_flag=True,
    help="Learn on rows that the models were trained on, too.",
)
@click.option("--overwrite", is_flag=True, help="Replace what learn has written to OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print learned.json.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(**options: Any) -> None:
    """Learn λ of every vector and tensor by gradient on validation rows (aTLAS, AdaMerging).

    RECIPE is a sum of task vectors of classifiers; learning begins at its λ. The number of epochs
    is chosen on rows that were left out. Writes OUT/recipe.yml, a plain recipe, and
    OUT/learned.json. Exit code 3: left-out rows show no gain, and the recipe is kept.

    \b
    Example:
      mergekit-fair learn runs/redditbias/addition.yml --data data.yml -o runs/learned
      mergekit-fair merge runs/learned/recipe.yml runs/redditbias/merged
    """
    quiet_libraries(quiet=options["quiet"])
    from mergekit_fair.data import load_spec
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
    from mergekit_fair.fairness import MetricSettings
    from mergekit_fair.learn.learn_run import LearnSettings, run_learn
    from mergekit_fair.learn.learning import Schedule
    from mergekit_fair.sweep.worst_report import load_checked_recipe

    progress = Terminal(quiet=options["quiet"])
    recipe = load_checked_recipe(options["recipe"], progress)
    names = ("max_length", "choice_map", "trust_remote_code")
    request = EvaluationRequest(
        tasks=load_spec(options["data"]),
        model_args={name: options[name] for name in names if options[name]},
        batch_size=options["batch_size"],
        allow_trained_rows=options["allow_trained_rows"],
        min_group_size=options["min_group_size"],
    )
    of_schedule = ("per", "rounds", "epochs", "learning_rate", "batch_size", "bf16", "seed")
    schedule = Schedule(
        **{name: options[name] for name in of_schedule},
        spike_and_slab=options["posterior"] != "none",
    )
    learned = run_learn(
        recipe,
        request,
        options["out"],
        LearnSettings(options["objective"], options["mu"], schedule, options["folds"]),
        MetricSettings(min_group_size=options["min_group_size"]),
        progress,
        device=options["device"],
        overwrite=options["overwrite"],
    )
    if options["as_json"]:
        echo_json(learned.to_dict())
    else:
        _show(learned)
    if not learned.chosen:
        raise click.exceptions.Exit(KEPT)


def _show(learned: Learned) -> None:
    from mergekit_fair.report.learn_text import learned_text

    echo(learned_text(learned))
