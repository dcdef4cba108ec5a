"""`report.html` says what results.json says, is well formed, and trusts no text."""

from __future__ import annotations

import base64
import copy
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from mergekit_fair.fairness.intervals import Interval
from mergekit_fair.fairness.metrics import GROUP_RATES
from mergekit_fair.report.figures import draw_sweep, draw_transfer
from mergekit_fair.report.page import write_page
from mergekit_fair.report.sweep_tables import difference_titles, ordered_metrics
from mergekit_fair.report.tables import interval_text, value_text
from mergekit_fair.report.verdict_text import verdict
from mergekit_fair.sweep.results import SweepResults, TransferRecord

VOID = {"meta", "img"}


class Page(HTMLParser):
    """A page that is taken apart; a tag that is closed wrongly fails.

    Attributes:
        tags: name and attributes of all that was opened.
        tables: caption → rows of texts of cells.
        texts: name of a tag → text of each.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self._rows: list[list[str]] = []
        self._parts: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag not in VOID:
            self.open.append(tag)
            self._parts.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        text = " ".join("".join(self._parts.pop()).split())
        self.texts.setdefault(tag, []).append(text)
        if self._parts:
            self._parts[-1].append(text)
        if tag in ("td", "th"):
            self._rows[-1].append(text)
        if tag == "table":
            caption = self.texts["caption"][-1]
            assert caption not in self.tables
            self.tables[caption] = self._rows

    def handle_data(self, data: str) -> None:
        if self._parts:
            self._parts[-1].append(data)

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def drawn(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep's folder with its pictures."""
    out = tmp_path_factory.mktemp("page") / "out"
    shutil.copytree(swept / "out", out)
    draw_sweep(SweepResults.load(out), out)
    return out


@pytest.fixture
def results(drawn: Path) -> dict[str, Any]:
    return dict(json.loads((drawn / "results.json").read_text()))


@pytest.fixture(scope="module")
def transfer() -> dict[str, Any]:
    """A measured transfer matrix: green's vector harms blue; other decides nothing."""
    from transfers import matrix

    from mergekit_fair.sweep.verdicts import judged

    rng = np.random.default_rng(0)
    group, y = rng.choice(3, 2000, p=[0.45, 0.45, 0.1]), rng.integers(0, 2, 2000)
    groups = {"blue": group == 0, "green": group == 1, "other": group == 2}
    target = np.where(rng.random(2000) < 0.85, y, 1 - y)
    harmful = target.copy()
    harmful[groups["blue"] & (rng.random(2000) < 0.4)] = 1
    stepped = {"green": harmful, "blue": target.copy()}
    found = matrix(y, target, stepped, groups, step=0.2, exclude=["other"])
    return judged(found, 0.1, screening=[], added={"blue": 0.2}).to_dict()


def read(results: dict[str, Any]) -> SweepResults:
    return SweepResults.model_validate(results)


def entry(content: dict[str, Any]) -> Interval:
    return Interval(**{key: content[key] for key in ("value", "low", "high")})


def made(results: dict[str, Any], folder: Path) -> Page:
    return Page(write_page(read(results), folder).read_text(encoding="utf-8"))


def body(rows: list[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows[1:]}


def test_it_is_well_formed_accessible_and_alone(results: dict[str, Any], drawn: Path) -> None:
    path = write_page(read(results), drawn)
    assert path == drawn / "report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} <= {f"#{name}" for name in ids}
    assert all(th.get("scope") in ("col", "row", "rowgroup") for th in page.all("th"))
    assert len(page.texts["caption"]) == len(page.all("table"))
    assert len(page.texts["h1"]) == 1
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert all(img["src"].startswith("data:image/svg+xml;base64,") for img in page.all("img"))
    assert "url(" not in html
    assert "@import" not in html
    for media in ("prefers-color-scheme: dark", "@media print"):
        assert media in html


def test_the_head_says_what_was_chosen_and_what_it_is_worth(
    results: dict[str, Any], drawn: Path
) -> None:
    page = made(results, drawn)
    assert page.texts["title"] == [f"tiny: {results['selected']['label']}"]
    assert page.texts["h1"] == [f"Chosen: {results['selected']['label']}"]
    assert set(verdict(read(results)).splitlines()) <= set(page.texts["p"])
    assert f"{results['selected']['rule']}." in page.texts["dd"]
    assert f"{results['selected']['reason']}." in page.texts["dd"]
    assert "banner" not in [p.get("class") for p in page.all("p")]


@pytest.mark.parametrize(("key", "caption"), [("report", "report"), ("points", "validation")])
def test_tables_of_points_hold_the_numbers_of_results_json(
    results: dict[str, Any], drawn: Path, key: str, caption: str
) -> None:
    results = copy.deepcopy(results)
    results["points"][2]["evaluation"] |= {"degenerate": True, "saturated": True}
    page = made(results, drawn)
    rows = page.tables[f"tiny, {caption} rows"]
    assert len(rows) == 1 + len(results[key])
    for row, line in zip(rows[1:], results[key], strict=True):
        evaluation = line["evaluation"]
        is_chosen = line["id"] == results["selected"]["id"]
        tags = ["chosen"] * is_chosen
        tags += [name for name in ("degenerate", "saturated") if evaluation[name]]
        assert row[0] == " ".join([line["label"], *tags])
        effective = "" if line["lambda_eff"] is None else f"{line['lambda_eff']:g}"
        assert row[1:3] == [line["kind"], effective]
        names = [metric.name for metric in ordered_metrics(results["selected"]["rule"])]
        metrics = [interval_text(entry(evaluation["metrics"][name])) for name in names]
        matched = evaluation["level_matched"]
        assert row[3:] == [
            *metrics,
            *(interval_text(entry(matched[name])) for name in ("dpd", "eod")),
        ]
    classes = [tr.get("class") for tr in page.all("tr")]
    assert classes.count("chosen") == 2  # on validation and on report rows
    assert "minor" in classes


def test_differences_and_groups_hold_the_numbers_of_results_json(
    results: dict[str, Any], drawn: Path
) -> None:
    page = made(results, drawn)
    paired = body(page.tables["Chosen minus baseline, paired on the report rows"])
    for name, gaps in results["comparison"].items():
        names = difference_titles([gaps])
        assert len(names) == sum(metric.compared for metric in ordered_metrics()) + 3
        expected = [interval_text(entry(gaps[key]), sign="+") for key in names]
        for place, key in enumerate(("acc", "dpd", "eod")):
            expected[place] += f" p = {gaps[key]['adjusted_p_value']:.3f}"
            expected[place] += " gaps near 0" * gaps[key].get("near_0", False)
        assert paired[f"minus {name}"] == expected
    rows = page.tables["tiny, report rows, by group"]
    at = 1
    for line in results["report"]:
        assert rows[at] == [line["label"]]
        for name, group in line["evaluation"]["groups"].items():
            at += 1
            rates = [value_text(group[key]) for key in GROUP_RATES]
            assert rows[at] == [name, str(group["n"]), str(group["n_pos"]), *rates]
        at += 1
    assert at == len(rows)
    served = body(page.tables["Groups of the injection's target"])
    worst = results["worst_group"]
    harm = worst["mean_of_dpd_and_eod"][worst["name"]]
    assert served[f"{worst['name']} worst served"] == [value_text(harm)]


def test_the_page_says_what_report_rows_can_show(results: dict[str, Any], drawn: Path) -> None:
    page, shown = made(results, drawn), results["detectable"]
    rows = page.tables["The smallest gap that these rows can show"][2:]
    expected = [
        (one["group"], f"{one['rows']:,}") for name in ("dpd", "eod") for one in shown[name]
    ]
    assert [(row[1], row[2]) for row in rows] == expected
    fft = next(point for point in results["points"] if point["label"] == "fft")
    rate = fft["evaluation"]["metrics"]["selection_rate"]["value"]
    assert shown["assumed"]["selection_rate"] == rate  # measured, on other rows


def test_pictures_lie_in_the_page(results: dict[str, Any], drawn: Path) -> None:
    images = made(results, drawn).all("img")
    content = [base64.b64decode(img["src"].partition(",")[2]) for img in images]
    assert content == [(drawn / f"{name}.svg").read_bytes() for name in ("curves", "pareto")]
    assert all(len(img["alt"]) > 40 for img in images)


def test_the_recipe_and_the_versions_are_there(results: dict[str, Any], drawn: Path) -> None:
    page = made(results, drawn)
    recipe = (drawn / "selected" / "recipe.yml").read_text()
    assert " ".join(recipe.split()) in page.texts["code"]
    assert f"mergekit-fair sweep {results['sweep']} -o DIR" in page.texts["code"]
    for name, version in results["versions"].items():
        assert f"{name} {version}" in page.texts["li"]
    nothing = {**results["selected"], "id": None, "label": None, "feasible": False}
    page = made({**results, "selected": nothing, "comparison": {}}, drawn)
    assert page.texts["h1"] == ["Nothing is chosen"]
    assert " ".join(recipe.split()) not in page.texts["code"]  # of an earlier choice


def test_the_same_results_give_the_same_bytes(results: dict[str, Any], drawn: Path) -> None:
    first = write_page(read(results), drawn).read_bytes()
    assert write_page(SweepResults.load(drawn), drawn).read_bytes() == first
    assert drawn.name.encode() not in re.findall(rb"mergekit-fair merge (\S+)", first)[0]


def test_a_choice_on_report_rows_is_a_red_banner(results: dict[str, Any], drawn: Path) -> None:
    forced = {**results, "selected_on": "report"}
    page = made(forced, drawn)
    banners = [p for p in page.all("p") if p.get("class") == "banner"]
    assert banners == [{"class": "banner", "role": "alert"}]
    text = next(text for text in page.texts["p"] if text.startswith("Warning."))
    assert "every figure of the chosen model is optimistic" in text
    assert not any("Opened once" in text for text in page.texts["p"])
    page = made({**results, "report_opened_for_another_selection": True}, drawn)
    assert any("opened before for another choice" in text for text in page.texts["p"])


def test_an_unmet_rule_is_said_in_the_head(results: dict[str, Any], drawn: Path) -> None:
    missed = {**results["selected"], "feasible": False, "reason": "no point satisfies the rule"}
    page = made({**results, "selected": missed}, drawn)
    assert "The rule is not met. no point satisfies the rule." in page.texts["p"]


def test_all_text_is_escaped(
    results: dict[str, Any], transfer: dict[str, Any], tmp_path: Path
) -> None:
    evil = "<script>alert('x')</script>\"&amp;"
    results["transfer"] = transfer
    results["warnings"] = ["blue"]
    text = json.dumps(results)
    for word in (*tiny.GROUPS, "fft", "lora", "tiny", "maximise"):
        text = text.replace(word, json.dumps(evil + word)[1:-1])
    (tmp_path / "selected").mkdir()
    (tmp_path / "selected" / "recipe.yml").write_text(f"base_model: {evil}recipe")
    hostile = json.loads(text)
    html = write_page(read(hostile), tmp_path).read_text()
    page = Page(html)
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in page.tags}
    assert f"{evil}tiny, report rows, by group" in page.tables
    assert f"base_model: {evil}recipe" in page.texts["code"]
    for word in ("blue", "fft", "lora", "maximise"):
        assert any(evil + word in part for texts in page.texts.values() for part in texts)


def test_the_transfer_is_shown_with_its_reasons(
    results: dict[str, Any], transfer: dict[str, Any], drawn: Path, tmp_path: Path
) -> None:
    draw_transfer(TransferRecord.model_validate(transfer), tmp_path)
    page = made({**results, "transfer": transfer}, tmp_path)
    expected = {v["group"]: [v["status"], "–", v["reason"]] for v in transfer["verdicts"]}
    assert body(page.tables["Verdicts"]) == expected
    assert {status for status, *_ in expected.values()} == {"safe", "unsafe"}
    for key, caption in (
        ("harm", "Change of the mean of one-vs-rest DPD and EOD"),
        ("acc", "Change of accuracy"),
    ):
        rows, parts = page.tables[caption], transfer["change"][key]
        assert rows[0][-1] == f"(other n={transfer['groups']['other']['n']})"
        for g, name in enumerate(transfer["injected"]):
            cells = [
                interval_text(entry(dict(zip(parts, ends, strict=True))), sign="+")
                for ends in zip(*(parts[part][g] for part in parts), strict=True)
            ]
            assert rows[1 + g] == [f"+ {name}", *cells]
    assert any("Added: 0.2 blue." in text for text in page.texts["p"])
    assert any("transfer" in img["alt"] or "vector" in img["alt"] for img in page.all("img"))
    # A picture of an earlier sweep is not shown in one that judges no injection.
    shutil.copy(tmp_path / "transfer.svg", drawn)
    assert len(made(results, drawn).all("img")) == 2


def test_without_matplotlib_the_page_has_no_pictures_and_says_so(
    results: dict[str, Any], drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = made(results, tmp_path)  # none there yet
    assert any(text.startswith("Not in the folder: curves.svg") for text in page.texts["p"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = made(results, drawn)
    assert page.all("img") == []
    assert any(text.startswith("No pictures: matplotlib is missing") for text in page.texts["p"])


def test_undefined_failed_and_refused_points_are_shown_as_such(
    results: dict[str, Any], tmp_path: Path
) -> None:
    line = copy.deepcopy(results["points"][2])
    line["evaluation"]["metrics"]["dpd"] = {"value": None, "low": None, "high": None}
    line["evaluation"]["saturated"] = True
    line |= {"id": "odd", "label": "odd", "refused": "harms a group"}
    bare = copy.deepcopy(line)
    del bare["evaluation"]["level_matched"], bare["evaluation"]["saturated"], bare["refused"]
    bare |= {"id": "bare", "label": "bare"}
    failed = {key: value for key, value in line.items() if key not in ("evaluation", "refused")}
    failed |= {"id": "failed", "label": "failed", "error": "the scores are NaN"}
    page = made({**results, "points": [*results["points"], line, bare, failed]}, tmp_path)
    rows = page.tables["tiny, validation rows"]
    assert rows[-3][0] == "odd saturated harms a group"
    assert rows[-3][4] == "–"
    assert rows[-2][0] == "bare"
    assert rows[-2][-2:] == ["", ""]
    assert rows[-1] == ["failed", "the scores are NaN"]
    only = made({**results, "points": [failed], "report": []}, tmp_path)
    assert only.tables["tiny, validation rows"][1] == ["failed", "the scores are NaN"]
    assert "No model was measured on them." in only.texts["p"]


def test_every_task_has_its_tables_and_its_warnings(
    results: dict[str, Any], tmp_path: Path
) -> None:
    for line in (*results["points"], *results["report"]):
        other = {**line["evaluation"], "task": "second", "n": 7, "warnings": ["few rows"]}
        line["tasks"] = {"second": other}
    page = made(results, tmp_path)
    for caption in ("validation rows", "report rows", "report rows, by group"):
        assert len(page.tables[f"second, {caption}"]) == len(page.tables[f"tiny, {caption}"])
    assert any(text.startswith("n = 7 rows") for text in page.texts["p"])
    assert "fft, second: few rows" in page.texts["li"]


def test_a_gap_to_the_rest_is_explained_as_such(results: dict[str, Any], tmp_path: Path) -> None:
    assert not any("Here each group" in text for text in made(results, tmp_path).texts["dd"])
    for line in (*results["points"], *results["report"]):
        line["evaluation"]["reference"] = "one_vs_rest"
    page = made(results, tmp_path)
    assert any("Here each group is compared with all other rows." in t for t in page.texts["dd"])
