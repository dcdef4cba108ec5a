"""`mergekit-fair measure`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from mergekit_fair.cli.reading_options import reading_options

FORMATS = ("csv", "tsv", "jsonl", "parquet")


class _Names(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas."""

    name = "name,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        del param, ctx
        if isinstance(value, tuple):
            return value
        return tuple(name for part in str(value).split(",") if (name := part.strip()))


@click.command("measure")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--label", metavar="COLUMN", help="True labels: 0 and 1, or see --positive.")
@click.option("--prediction", metavar="COLUMN", help="Predictions, as the labels; empty: none.")
@click.option("--score", metavar="COLUMN", help="Scores, higher is more positive; empty: none.")
@click.option(
    "--threshold",
    metavar="NUMBER",
    help="1 is predicted where the score is at least this; or 'level: labels' (as many as there "
    "are positive labels) or 'level: RATE'. Default for scores in [0, 1]: 0.5.",
)
@click.option(
    "--groups",
    type=_Names(),
    default="",
    metavar="A,B,A*B",
    help="Columns whose values are groups; A*B: their intersections.",
)
@click.option("--weight", metavar="COLUMN", help="What a row counts for.")
@click.option("--cluster", metavar="COLUMN", help="What a row is sampled with: template, author.")
@click.option("--positive", multiple=True, metavar="VALUE", help="Labels that are 1; repeatable.")
@click.option(
    "--classes",
    type=_Names(),
    default="",
    metavar="A,B,C",
    help="Label and prediction hold these classes; or all: those among the labels.",
)
@click.option(
    "--labels",
    type=_Names(),
    default="",
    metavar="LABEL:PREDICTION,…",
    help="Several labels a row: pairs of columns of 0 and 1, in place of --label and --prediction.",
)
@click.option("--format", type=click.Choice(FORMATS), help="Of the file; else by its name.")
@click.option("--separator", metavar="CHARACTER", help="Between cells of a csv.")
@click.option("--quotes", metavar="CHARACTER", help="Around cells of a csv; or none, standard.")
@click.option("--decimal", metavar="CHARACTER", help="Decimal mark of a csv.")
@click.option("--encoding", metavar="NAME", help="Of a csv, tsv or jsonl file; else UTF-8.")
@reading_options
@click.option("--against", metavar="GROUP", help="Signed differences of all others from it.")
@click.option("--exclude", multiple=True, metavar="GROUP", help="It decides no gap; repeatable.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No warnings.")
def command(file: Path, **options: Any) -> None:
    """Metrics with intervals of a file of predictions; no model is needed.

    FILE is csv, tsv, jsonl or parquet with a row for each example; or samples that `eval` or
    `lm_eval --log_samples` has written, which need no options.

    \b
    Examples:
      mergekit-fair measure predictions.csv --label y --score p --groups sex,race
      mergekit-fair measure speech.csv --label class --prediction p --classes all --groups sex
    """
    from mergekit_fair.cli.terminal import echo, echo_json
    from mergekit_fair.errors import ConfigError
    from mergekit_fair.evaluation.cutoff import Cutoff
    from mergekit_fair.evaluation.measure_file import FileMeasurement, measure_file
    from mergekit_fair.evaluation.multi_table import (
        MultiFileMeasurement,
        MultiTable,
        measure_multi_table,
    )
    from mergekit_fair.evaluation.prediction_table import PredictionColumns, read_rows_of
    from mergekit_fair.fairness import MetricSettings

    settings = MetricSettings(
        reference=options["reference"],
        confidence=options["confidence"],
        min_group_size=options["min_group_size"],
        exclude=options["exclude"],
        seed=options["seed"],
        against=options["against"],
    )
    threshold = options["threshold"]
    cutoff = None if threshold is None else Cutoff.parse(threshold, "--threshold")
    if cutoff is not None and options["prediction"] is not None:
        raise ConfigError(
            "--prediction and --threshold both say what is predicted",
            where=file,
            fix="leave one of them out",
        )
    columns = PredictionColumns(
        **{each.name: options[each.name] for each in dataclasses.fields(PredictionColumns)}
    )
    written = ("format", "separator", "quotes", "decimal", "encoding")
    rows = read_rows_of(file, columns, {name: options[name] for name in written})
    if isinstance(rows, MultiTable):
        if cutoff is not None:
            raise ConfigError(
                "--threshold is for binary scores",
                where=file,
                got=threshold,
                fix="leave it out: of classes the likeliest is predicted",
            )
        measured: MultiFileMeasurement | FileMeasurement = measure_multi_table(file, rows, settings)
    else:
        measured = measure_file(file, rows, settings, cutoff)
    if options["as_json"]:
        echo_json(measured.to_dict())
        return
    from mergekit_fair.report.evaluation_text import file_text

    echo(file_text(measured, quiet=options["quiet"]))
