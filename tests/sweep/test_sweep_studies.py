"""`benchmarks/studies.py`: rows dealt by a seed, and a whole study in small; GAP's marks."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import tiny
import yaml

from mergekit_fair.cli import main
from mergekit_fair.data import Rows, load_rows, load_spec
from mergekit_fair.resources import recipes_folder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GAP = Path(__file__).parents[3] / "shared" / "data" / "gap"


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return module_at(BENCHMARKS / "studies.py")


def write_study(folder: Path, **data: object) -> Path:
    """A tiny study; `data` changes its description."""
    tiny.write_training(folder, data=tiny.data_block(folder / "rows.csv", **data))
    study = {
        "evaluate": {"data": "data.yml", "max_length": 16, "device": "cpu", "min_group_size": 1},
        "grid": {"lambda": [0.2, 0.4]},
        "search": {"method": "random", "budget": 3},
    }
    (folder / "study.yml").write_text(yaml.safe_dump(study))
    return folder


def test_rows_of_a_split_column_are_dealt_anew_by_a_seed(tmp_path: Path, studies: ModuleType):
    folder = write_study(tmp_path / "tiny", splits={"column": "part"})
    lines = (folder / "rows.csv").read_text().splitlines()
    parts = ["train", "train", "validation", "report"]
    parted = [f"{line},{parts[row % 4]}" for row, line in enumerate(lines[1:])]
    (folder / "rows.csv").write_text("\n".join([f"{lines[0]},part", *parted]) + "\n")

    def rows(number: int) -> Rows:
        seed = studies.Seed(folder, number, tmp_path / f"seed-{number}", None, False, False)
        seed.write_files()
        return load_rows(load_spec(seed.folder / "data.yml"))

    first, second, third = rows(0), rows(1), rows(2)
    assert (first.split == [parts[row % 4] for row in range(len(first))]).all()
    for one, other in ((first, second), (second, third)):
        assert (one.split != other.split).any()
    for dealt in (second, third):
        assert sorted(dealt.inputs) == sorted(first.inputs)
        assert {name: len(dealt.of(name)) / len(dealt) for name in parts} == pytest.approx(
            {"train": 0.5, "validation": 0.25, "report": 0.25}, abs=0.1
        )
        seen = {name: set(dealt.of(name).inputs) for name in parts}
        assert not seen["train"] & seen["validation"]
        assert not seen["report"] & (seen["train"] | seen["validation"])
    training = [
        yaml.safe_load((tmp_path / f"seed-{number}" / "train.yml").read_text())["seed"]
        for number in range(3)
    ]
    assert training == [0, 100, 200]


@pytest.mark.slow
def test_heads_alone_need_no_models_of_groups(tmp_path: Path):
    write_study(tmp_path / "tiny")
    model = tiny.write_encoder(tmp_path / "other")
    words = ("--study", tmp_path / "tiny", "--seeds", "1", "2", "--heads-only", "--model", model)
    run(*words, "-o", tmp_path / "out")
    seed = tmp_path / "out" / "tiny-other" / "seed-1"
    found = json.loads(seed.with_suffix(".json").read_text())
    assert {"FFT", "fair head"} <= {line["model"] for line in found["models"]}
    assert not {"lora", "groups", "soup"} & {path.name for path in (seed / "models").iterdir()}


@pytest.mark.slow
def test_a_whole_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_study(tmp_path / "tiny")
    first = run("--study", tmp_path / "tiny", "--seeds", "1", "-o", tmp_path / "out")
    path = tmp_path / "out" / "tiny" / "seed-0.json"
    found = json.loads(path.read_text())
    lines = {line["model"]: line for line in found["models"]}
    every = {"FFT", "LoRA", "soup of FFT seeds", "best λ", "best λ_g", "fair head"}
    assert every | {"thresholds with labels (DPD)", "thresholds with labels (EOD)"} <= set(lines)
    for name in lines:
        assert f"| {name}" in first
    seed = path.with_suffix("")
    # By the commands that everybody has.
    for name, folder in (("FFT", "fft-report"), ("LoRA", "lora-report")):
        evaluation = json.loads((seed / "eval" / folder / "tiny.json").read_text())
        for metric, value in lines[name]["metrics"].items():
            assert evaluation["metrics"][metric] == value
    capsys.readouterr()
    folders = [str(seed / "eval" / f"{name}-report") for name in ("fft", "lora")]
    with pytest.raises(SystemExit):
        main(["compare", *folders, "--min-group-size", "1", "--json"])
    (compared,) = json.loads(capsys.readouterr().out)["tiny"]["models"].values()
    for metric in ("acc", "dpd", "eod"):
        assert compared[metric]["low"] == lines["LoRA"]["minus_fft"][metric]["low"]
    assert run("-o", tmp_path / "out") == first


def run(*words: object) -> str:
    """What the script prints."""
    root = os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "studies.py"), *map(str, words)],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_marks_of_gap():
    mark = module_at(recipes_folder("gap") / "mark.py")
    passage = {
        **{"ID": "x-1", "Text": "Ada met Eve; then she said ``no'' and left her at home."},
        **{"A": "Ada", "A-offset": "0", "B": "Eve", "B-offset": "8"},
        **{"Pronoun": "she", "Pronoun-offset": "18"},
    }
    text = '[ Ada ] met { Eve }; then < she > said "no" and left'
    assert mark.marked(passage, "A") == text
    assert mark.marked(passage, "B", 1) == "{ Ada } met [ Eve ]; then < she > said"
    later = passage | {"Pronoun": "her", "Pronoun-offset": str(passage["Text"].index("her at"))}
    found = mark.marked(later, "B", 2)
    assert found == "{ Ada } met [ Eve ]; then she .. and left < her > at home."
    first = {"A": "Eve", "A-offset": "8", "B": "said", "B-offset": "22"}
    found = mark.marked(passage | first, "A", 1)
    assert found == 'met [ Eve ]; then < she > { said } "no"'
    with pytest.raises(SystemExit, match="x-1: A does not stand at A-offset"):
        mark.span(passage | {"A-offset": "1"}, "A")


@pytest.mark.shared
def test_gap_has_two_rows_a_passage_and_an_article_in_one_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mark = module_at(recipes_folder("gap") / "mark.py")
    table = tmp_path / "gap.jsonl"
    files = [str(GAP / f"gap-{name}.tsv.gz") for name in ("development", "test", "validation")]
    monkeypatch.setattr(sys, "argv", ["mark.py", *files, "-o", str(table)])
    mark.main()
    monkeypatch.setenv("GAP_JSONL", str(table))
    rows = load_rows(load_spec(recipes_folder("gap") / "data.yml"))
    assert (len(rows), int(rows.labels.sum())) == (8908, 3964)
    assert rows.membership.sum(axis=0).tolist() == [4454, 4454]
    articles = [json.loads(line)["article"] for line in table.read_text().splitlines()]
    splits = {}
    for article, split in zip(articles, rows.split, strict=True):
        assert splits.setdefault(article, split) == split
