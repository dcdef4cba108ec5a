"""Names that would do something on a terminal, in Markdown, HTML, a spreadsheet, JSON or YAML.

Every output is read back by a parser of its kind: it shows the name, and does nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from attacks import NAMES, measured, measured_classes, swept, swept_classes
from click.testing import CliRunner
from markdown_it import MarkdownIt

from mergekit_fair.audit.audit_results import AuditResults
from mergekit_fair.cli import main
from mergekit_fair.cli.terminal import Terminal, echo, echo_json
from mergekit_fair.errors import DataError
from mergekit_fair.escaping import in_markdown, in_spreadsheet, is_seen, one_line, printable
from mergekit_fair.report.audit_report import audit_text, write_audit_page
from mergekit_fair.report.card import card_of_evaluations, card_of_sweep
from mergekit_fair.report.comparison_text import comparison_text, multi_comparison_text
from mergekit_fair.report.evaluation_text import evaluation_text
from mergekit_fair.report.figures import vectors_pictures
from mergekit_fair.report.outputs import summary_text
from mergekit_fair.report.page import write_page
from mergekit_fair.report.sweep_csv import results_csv
from mergekit_fair.report.tables import Table, as_text
from mergekit_fair.report.vectors_text import check_text, vectors_table
from mergekit_fair.sweep.results import SweepResults

attacked = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
VECTORS = {
    **{"method": "m", "elements": 4, "tensors": 1, "target": None, "notes": [], "at": None},
    **{"screening": None, "norm_over_median": [1.0, 1.0], "cosine_with_mean": [1.0, 1.0]},
    **{"norms": [1.0, 1.0], "cosines": [[1.0, 0.5], [0.5, 1.0]]},
    "sign_conflict": [[0.0, 0.5], [0.5, 0.0]],
    "changed": [1.0, 0.5],
    "overlap": [[1.0, 0.5], [0.5, 1.0]],
}


def is_harmless(text: str) -> bool:
    return all(letter == "\n" or is_seen(letter) for letter in text)


def visible(name: str) -> str:
    """As a cell of Markdown shows it: line ends are blanks, and outer blanks are not shown."""
    return one_line(re.sub(r"\s*\n\s*", " ", name).strip())


def block(name: str) -> str:
    """The text of one paragraph, from a Markdown parser."""
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(name)
    kinds = [token.type for token in tokens]
    assert kinds == ["paragraph_open", "inline", "paragraph_close"], kinds
    inner = tokens[1].children or ()
    assert {child.type for child in inner} <= {"text", "text_special"}, inner
    return "".join(child.content for child in inner)


@attacked
def test_on_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = as_text(Table.plain(["group", "n"], [[name, "1"], ["other", "2"]]))
    assert len(table.splitlines()) == 3
    texts = [table, evaluation_text(measured(name)), summary_text(swept(name))]
    texts.append(summary_text(swept_classes(name)))
    gaps = {
        metric: {"value": 0.1, "low": 0.01, "high": 0.2, "withheld": name}
        for metric in swept(name).comparison[name]
    }
    texts.append(comparison_text(name, {name: gaps}, name, 8))
    texts.append(vectors_table(VECTORS | {"recipe": name, "names": [name, "other"]}))
    facts = {"recipe": name, "method": name, "engine": name}
    lists = {key: [name] for key in ("models", "notes", "warnings")}
    texts.append(check_text({**facts, **lists}))
    assert texts[-1].count("\n") == 4
    assert all(map(is_harmless, texts))
    echo(name)
    Terminal().say(name)
    shown = capsys.readouterr()
    assert is_harmless(shown.out.replace("\t", ""))
    assert shown.err.count("\n") == 1
    assert is_harmless(shown.err)


@attacked
def test_classes_on_a_terminal(name: str) -> None:
    found, plain = measured_classes(name), measured_classes("plain")
    text = evaluation_text(found)
    assert is_harmless(text)
    tables, of_plain = (
        [line for line in each.splitlines() if not line.startswith("warning: ")]
        for each in (text, evaluation_text(plain))
    )
    assert len(tables) == len(of_plain)
    gap = {"value": 0.1, "low": 0.01, "high": 0.2}
    mark = {**found.metrics, "worst_view": found.worst_view, "deciding": {}}
    mark |= {"degenerate": False, "saturated": None, "selection_rates": {name: 0.5}}
    mark = {key: each.to_dict() if hasattr(each, "to_dict") else each for key, each in mark.items()}
    compared = {"n": 8, "baseline": name, "marks": {name: mark}}
    compared["models"] = {name: {m: gap | {"withheld": name} for m in found.metrics}}
    compared["views"] = {name: {name: {"dpd": gap, "eod": gap}}}
    assert is_harmless(multi_comparison_text(name, compared))


def audited(name: str) -> AuditResults:
    """An audit of a task of classes; model, class, group and task have this name."""
    gap, found = {"value": 0.1, "low": 0.01, "high": 0.2}, measured_classes(name)
    model = {"kind": "merge", "source": name, "digest": None, "way": name}
    by_group = {
        f"{view}.{rate}": {"value": 0.5}
        for view in found.views
        for rate in ("selection_rate", "tpr", "fpr")
    }
    task = {
        "n": 24,
        "models": {name: dict.fromkeys(found.metrics, gap)},
        "differences": {name: {metric: gap | {"withheld": name} for metric in found.metrics}},
        "groups": {name: {name: by_group}},
        "group_sizes": {name: {"n": 12}},
        "views": {
            name: {
                view: dict.fromkeys(("base_rate", "selection_rate", "dpd", "eod"), gap)
                for view in found.views
            }
        },
        "view_differences": {name: {view: {"dpd": gap, "eod": gap} for view in found.views}},
        "worst_view": {name: dict.fromkeys(("dpd", "eod"), name)},
        "deciding": {name: {"worst_dpd": {"rate": "tpr", "highest": name, "lowest": "rest"}}},
        "warnings": [name],
    }
    for key in ("models", "groups", "views", "worst_view", "deciding"):
        task[key]["merge"] = task[key][name]  # type: ignore[index]
    content = {"recipe": name, "method": name, "split": "report", "limit": None, "confidence": 0.95}
    content |= {"models": {name: model, "merge": model}, "tasks": {name: task}, "versions": {}}
    return AuditResults.from_dict(content)


@attacked
def test_in_an_audit(name: str, tmp_path: Path) -> None:
    text = audit_text(audited(name))
    assert is_harmless(text)
    assert len(text.splitlines()) == len(audit_text(audited("plain")).splitlines())
    found = [_Tags(), _Tags()]
    for tags, each in zip(found, (name, "plain"), strict=True):
        html = write_audit_page(audited(each), tmp_path).read_text(encoding="utf-8")
        assert is_harmless(html.replace("\t", ""))
        tags.feed(html)
    assert found[0].found == found[1].found


@attacked
def test_in_an_error(name: str) -> None:
    error = DataError(f"no group {name}", where=Path(name), got=name, allowed=[name], fix=name)
    assert is_harmless(str(error))
    assert "\n" not in str(error)
    assert (error.got, error.fix) == (name, name)


@attacked
def test_as_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    echo_json({name: [name]})
    text = capsys.readouterr().out
    assert is_harmless(text)
    assert json.loads(text) == {name: [name]}


@attacked
def test_in_markdown(name: str) -> None:
    assert block(in_markdown(name)).strip() == visible(name)


@attacked
def test_on_a_card(name: str) -> None:
    recipe = "merge_method: x\n# a comment\n"
    config = {"architectures": ["BertForSequenceClassification"]}
    about = {"name": "m", "recipe": recipe, "config": config}
    cards = [card_of_evaluations([measured(name)], **about)]
    cards.append(card_of_evaluations([measured_classes(name)], **about))
    for results in (swept(name), swept_classes(name)):
        cards.append(card_of_sweep(results, **about, pictures=["a.png"]))
    plain = card_of_evaluations([measured("plain")], **about)
    for card in cards:
        assert is_harmless(card)
        _, front, body = card.split("---\n", 2)
        assert yaml.safe_load(front)["tags"] == ["mergekit", "merge", "mergekit-fair", "fairness"]
        parsed = MarkdownIt("commonmark").enable("table").parse(body)
        inner = [child for token in parsed for child in token.children or ()]
        kinds = {token.type for token in [*parsed, *inner]}
        assert not kinds & {"html_inline", "html_block", "blockquote_open", "ordered_list_open"}
        assert kinds >= {"table_open", "heading_open", "fence"}
        links = [str(item.attrs["href"]) for item in inner if item.type == "link_open"]
        assert all(link.startswith(("https://github.com/", "https://arxiv")) for link in links)
        assert [item.attrs["src"] for item in inner if item.type == "image"] in ([], ["a.png"])
    tokens = MarkdownIt("commonmark").enable("table").parse(cards[0].split("---\n", 2)[2])
    expected = MarkdownIt("commonmark").enable("table").parse(plain.split("---\n", 2)[2])
    assert [token.type for token in tokens] == [token.type for token in expected]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(results: SweepResults, folder: Path) -> _Tags:
    tags = _Tags()
    text = write_page(results, folder).read_text(encoding="utf-8")
    assert is_harmless(text.replace("\t", ""))
    tags.feed(text)
    return tags


@pytest.fixture(scope="module")
def plain_pages(tmp_path_factory: pytest.TempPathFactory) -> list[_Tags]:
    folder = tmp_path_factory.mktemp("page")
    return [page(made("plain"), folder) for made in (swept, swept_classes)]


@attacked
def test_on_a_page(name: str, tmp_path: Path, plain_pages: list[_Tags]) -> None:
    found, of_classes = (page(made(name), tmp_path) for made in (swept, swept_classes))
    assert found.found == plain_pages[0].found
    assert [tag for tag, _ in of_classes.found].count("table") == 6
    assert {tag for tag, _ in of_classes.found} == {tag for tag, _ in plain_pages[1].found}
    assert printable(name).replace("\n", " ").split() == [
        word for word in printable(name).replace("\n", " ").split() if word in found.text
    ]


@attacked
def test_in_a_spreadsheet(name: str) -> None:
    for results in (swept(name), swept_classes(name)):
        rows = list(csv.reader(io.StringIO(results_csv(results), newline="")))
        assert len(rows) == 5
        assert len({len(row) for row in rows}) == 1
        assert len(set(rows[0])) == len(rows[0])
        for row in rows:
            for cell in row:
                assert is_harmless(cell)
                is_number = re.fullmatch(r"-?[0-9.]+", cell) is not None
                assert is_number or not cell.strip().startswith(("=", "+", "-", "@", "\uff1d"))
        label = rows[1][rows[0].index("label")]
        assert label.removeprefix("'") == one_line(name)


def test_numbers_stay_numbers_in_a_spreadsheet() -> None:
    numbers = [-0.5, 3, None, True, "-0.25", "+1e-3", "-7"]
    assert [in_spreadsheet(number) for number in numbers] == numbers
    assert in_spreadsheet("-7 to 3") == "'-7 to 3"


@pytest.mark.parametrize(
    "kind", ["escape sequence", "null", "half a pair", "comment", "tag letters"]
)
def test_in_a_picture(kind: str) -> None:
    pytest.importorskip("matplotlib")
    made = vectors_pictures(VECTORS | {"names": [NAMES[kind], "other"]})
    ElementTree.fromstring(made["vectors.svg"])


def test_names_in_other_scripts_and_emoji_are_shown_as_they_are() -> None:
    for name in ("女性", "می\u200cخواهم", "👩\u200d🔬", "Ünïcode ñ", "עברית", "مرد", "a\u00a0b"):
        assert one_line(name) == name


def test_arguments_reach_the_terminal_escaped() -> None:
    for words in (
        ["\x1b[2J"],
        ["merge", "\x1b[2J"],
        ["merge", "a", "b", "\x1b[2J\r"],
        ["hook", "\x9b"],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2
        assert is_harmless(result.stderr), result.stderr
