"""`mergekit-fair new`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergekit_fair.cli.terminal import echo, echo_json
from mergekit_fair.errors import ConfigError
from mergekit_fair.escaping import one_line

if TYPE_CHECKING:
    from mergekit_fair.starter.columns import Columns
    from mergekit_fair.starter.starter_files import Started, TableAnswers


@click.command("new")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Folder.  [default: FILE's name]"
)
@click.option("--text", help='A column, or a template of columns: "age {age}, job {job}".')
@click.option("--image", help="A column of picture files, in the place of --text.")
@click.option("--label", help="The column that says yes or no.")
@click.option("--positive", multiple=True, help="A value that means yes; may be repeated.")
@click.option("--at-least", type=float, help="A number from which on the label means yes.")
@click.option("--groups", multiple=True, help="A column of groups; of several, intersections.")
@click.option("--split", help="A column that says train, validation or report.")
@click.option("--model", help="A folder, a name on the Hub or package:module:folder.")
@click.option("--name", help="Of the data set.  [default: FILE's name]")
@click.option("--overwrite", is_flag=True, help="Replace data.yml, train.yml and sweep.yml in OUT.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(**options: Any) -> None:
    """Begin with a table of your own: writes data.yml, train.yml and sweep.yml, commented.

    FILE is a csv, tsv, jsonl or parquet table with a text (or columns that make one), a 0/1 label
    and groups. What no option says is asked for, on a terminal. The description is tried on all
    rows before anything is written; then come the next three commands.

    \b
    Example:
      mergekit-fair new comments.csv
      mergekit-fair new comments.csv --text comment --label toxic --groups gender -o study
    """
    from mergekit_fair.starter.starter_files import start

    answers = _answers(options)
    out = options["out"] or Path(_stem(options["file"]))
    started = start(answers, out, overwrite=options["overwrite"])
    if options["as_json"]:
        echo_json(started.to_dict())
    else:
        echo(_said(started))


def _stem(file: Path) -> str:
    return file.name.partition(".")[0] or "study"


def _answers(options: dict[str, Any]) -> TableAnswers:
    from mergekit_fair.data.blocks import Source
    from mergekit_fair.data.table import read_table
    from mergekit_fair.starter.columns import Columns, likely_positive
    from mergekit_fair.starter.starter_files import MODEL, TableAnswers

    file = options["file"]
    columns = Columns.of(read_table(Source(path=str(file))))
    ask = _Ask(columns, file)
    text, image = options["text"], options["image"]
    if text and image:
        raise ConfigError("are two inputs: give one of them", where="--text, --image")
    label = ask.column("--label", options["label"], "Which column says yes or no?", "likely_label")
    groups = list(options["groups"])
    if not groups:
        likely = columns.likely_groups(label)
        groups = [ask.one("--groups", "Which column holds the groups?", likely[:1], columns.names)]
    if not (text or image):
        template = columns.template([label, *groups])
        likely = [found] if (found := columns.likely_text()) else [template]
        text = ask.one("--text", "Which column holds the text (or: a template)?", likely, None)
    positive: tuple[str, ...] = options["positive"]
    negative: tuple[str, ...] = ()
    at_least = options["at_least"]
    values = list(columns[ask.known("--label", label)].values)
    if positive and at_least is not None:
        raise ConfigError("are two rules: give one of them", where="--positive, --at-least")
    if not positive and at_least is None and not set(values) <= {"0", "1"}:
        if len(values) > 2 and columns[label].is_number:
            at_least = float(ask.one("--at-least", "From which number on is it yes?", [], None))
        else:
            said = ask.one(
                "--positive", "Which value means yes?", [likely_positive(values)], values
            )
            positive = (said,)
    if positive:
        others = tuple(value for value in values if value not in positive)
        negative = others if len(others) == 1 else ("*",)
    if (found := columns.likely_split()) and not options["split"]:
        echo(
            f"note: column {found!r} says train, validation, report: --split {found} uses it",
            err=True,
        )
    return TableAnswers(
        file=file,
        name=options["name"] or _stem(file),
        label=label,
        groups=tuple(ask.known("--groups", name) for name in groups),
        text=text,
        image=image,
        positive=positive,
        negative=negative,
        at_least=at_least,
        split=options["split"] and ask.known("--split", options["split"]),
        model=options["model"] or MODEL,
    )


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


class _Ask:
    """Asks on a terminal; elsewhere what is missing is an error that shows the columns."""

    def __init__(self, columns: Columns, file: Path) -> None:
        self._columns, self._file, self._is_shown = columns, file, False

    def known(self, option: str, name: str) -> str:
        """A column's name.

        Raises:
            ConfigError: there is no such column.
        """
        from mergekit_fair.schema import suggestion

        names = self._columns.names
        if name not in names:
            fix = suggestion(name, names)
            raise ConfigError("no such column", where=option, got=name, allowed=names, fix=fix)
        return name

    def column(self, option: str, given: str | None, question: str, likely: str) -> str:
        """A column that is given or asked for."""
        if given is not None:
            return self.known(option, given)
        found = getattr(self._columns, likely)()
        return self.one(option, question, [found] if found else [], self._columns.names)

    def one(self, option: str, question: str, likely: list[str], allowed: list[str] | None) -> str:
        """An answer, of which the likely one is offered.

        Raises:
            ConfigError: nobody is there to be asked.
        """
        if not _somebody_is_there():
            raise ConfigError(
                "is not given, and nobody is there to be asked",
                where=option,
                allowed=allowed or self._columns.names,
                fix=f"give {option}" + (f', such as "{likely[0]}"' if likely else ""),
            )
        self._show()
        choice = click.Choice(allowed) if allowed else None
        answer = click.prompt(
            question, default=likely[0] if likely else None, type=choice, show_choices=False
        )
        return str(answer)

    def _show(self) -> None:
        if not self._is_shown:
            self._is_shown = True
            lines = (
                f"  {one_line(each.name)}: {one_line(each.shown)}" for each in self._columns.all
            )
            echo("\n".join([f"{one_line(self._file)} has the columns", *lines]))


def _said(started: Started) -> str:
    from mergekit_fair.report.tables import Table, as_text

    rows = ", ".join(f"{count:,} {name}" for name, count in started.rows.items())
    table = [
        [name, f"{n:,}", f"{p / n:.3f}" if n else "–", "too small" * (name in started.small)]
        for name, (n, p) in started.groups.items()
    ]
    lines = [f"rows: {rows}; yes: {started.positive:.3f} of all"]
    lines.append("validation rows of each group:")
    lines.append(as_text(Table.plain(["group", "rows", "yes", ""], table)))
    if started.small:
        lines.append("A group that is too small (30 rows of either answer) decides no gap.")
    lines += [f"warning: {one_line(text)}" for text in started.warnings]
    lines += [f"written: {started.folder}/data.yml, train.yml, sweep.yml", "next:"]
    return "\n".join([*lines, *(f"  {each}" for each in started.commands)])
