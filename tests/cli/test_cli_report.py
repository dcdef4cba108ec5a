"""`mergekit-fair report` as a user calls it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mergekit_fair.cli import main
from mergekit_fair.report.outputs import summary_text
from mergekit_fair.schema import sealed, unsealed
from mergekit_fair.sweep.results import SweepResults


@pytest.fixture
def out(swept: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    shutil.copytree(swept / "out", folder)
    return folder


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_it_writes_tables_pictures_and_the_page_and_the_same_again(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    before = (out / "results.json").read_bytes()
    names = ["results.csv", "report.html", *(f"{n}.{s}" for n in ("curves", "pareto")
                                             for s in ("png", "svg"))]  # fmt: skip
    run = report(out)
    assert run.exit_code == 0, run.output
    assert run.stdout == f"{summary_text(SweepResults.load(out))}\n\n{out / 'report.html'}\n"
    written = {name: (out / name).read_bytes() for name in names}
    assert b"data:image/svg+xml" in written["report.html"]
    for name in names:
        (out / name).unlink()
    assert json.loads(report(out, "--json").stdout) == results
    assert {name: (out / name).read_bytes() for name in names} == written
    assert (out / "results.json").read_bytes() == before


def test_without_matplotlib_there_is_a_page_without_pictures(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = report(out)
    assert run.exit_code == 0, run.output
    assert run.stderr.startswith("no pictures: pictures need matplotlib")
    assert "<img" not in (out / "report.html").read_text()
    assert report(out, "--quiet").stderr == ""


def test_a_folder_without_results_is_one_message(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "no"):
        run = report(folder)
        assert run.exit_code == 2
        assert run.stderr == (
            f"Error: {folder}: there is no results.json. Run `mergekit-fair sweep SWEEP -o "
            f"{folder}` to its end first.\n"
        )
    file = tmp_path / "file"
    file.write_text("")
    assert report(file).exit_code == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"{}", b'"results"']
)
def test_damaged_json_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    run = report(tmp_path)
    assert run.exit_code == 2
    assert run.stderr.startswith(f"Error: {tmp_path / 'results.json'}: ")
    assert len(run.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json"]


def changed(results: dict[str, Any], *keys: Any, value: Any) -> str:
    place: Any = results
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return json.dumps(sealed(unsealed(results)[0]))  # as another version would write it


@pytest.mark.parametrize(
    ("keys", "value", "text"),
    [
        (["selected_on"], None, "lacks selected_on: another version of mergekit-fair"),
        (["transfer"], None, "lacks transfer: another version"),
        (["selected", "ties"], None, "lacks selected.ties: another version"),
        (["points", 0, "lambda"], None, "lacks points.0.lambda: another version"),
        (["points", 0, "evaluation"], None, "points.0: neither an evaluation nor"),
        (
            ["report", 0, "evaluation", "metrics", "eod"],
            None,
            "lacks report.0.evaluation.metrics.eod: another version",
        ),
        (["comparison", "fft", "acc", "value"], "much", "comparison.fft.acc.value: Input should"),
        (["confidence"], float("nan"), "confidence: Input should be a finite number"),
        (["points", 0, "settings"], {"a": float("inf")}, "cannot be read: points.0.settings"),
        (["task"], "\ud800", "is damaged ("),
        (["points"], {}, "cannot be read: points: Input should be a valid list"),
    ],
)
def test_results_that_lack_something_are_one_message(
    out: Path, keys: list[Any], value: Any, text: str
) -> None:
    path = out / "results.json"
    path.write_text(changed(json.loads(path.read_text()), *keys, value=value))
    run = report(out)
    assert run.exit_code == 2, run.output
    assert run.stderr.startswith(f"Error: {path}: ")
    assert text in run.stderr
    assert f"Run `mergekit-fair sweep SWEEP -o {out}` again" in run.stderr
    assert not (out / "report.html").exists()


def test_help_is_light_and_has_an_example() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from mergekit_fair.cli import main\n"
        "run = CliRunner().invoke(main, ['report', '--help'])\n"
        "assert run.exit_code == 0 and 'mergekit-fair report runs/' in run.output, run.output\n"
        "heavy = {'torch', 'transformers', 'mergekit', 'numpy', 'pandas', 'jinja2', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
