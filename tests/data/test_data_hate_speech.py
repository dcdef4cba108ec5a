"""The recipe of three classes: its rows are made the same everywhere, and read as described."""

import csv
import hashlib
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import yaml
from examples import examples_in, require_examples_hold

from mergekit_fair.data import load_rows, load_spec
from mergekit_fair.resources import recipes_folder

FOLDER = recipes_folder("hate_speech")
GROUPS = tuple(f"{dialect} & {target}" for dialect in ("coastal", "plain")
               for target in ("bakers", "sailors"))  # fmt: skip


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """The file that the recipe's program writes."""
    out = tmp_path_factory.mktemp("speech") / "hate_speech.csv"
    subprocess.run([sys.executable, str(FOLDER / "generate.py"), "-o", str(out)], check=True)
    return out


@pytest.fixture
def rows(speech, monkeypatch):
    monkeypatch.setenv("HATE_SPEECH_CSV", str(speech))
    return lambda file: load_rows(load_spec(FOLDER / file))


def test_the_made_up_rows_are_the_same_everywhere(speech):
    """Sums, products and comparisons of `random()`, which no version of Python changes."""
    content = speech.read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "683b11540461d5ac"
    header, *lines = csv.reader(content.decode().splitlines())
    assert header[1:7] == [
        "count",
        "hate_speech",
        "offensive_language",
        "neither",
        "class",
        "tweet",
    ]
    for line in lines:
        votes = [int(cell) for cell in line[2:5]]
        assert sum(votes) == int(line[1])
        assert votes[int(line[5])] == max(votes)
        assert votes.count(max(votes)) == 1


def test_its_examples_print_what_they_say():
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (test,) = examples_in(module)
    require_examples_hold(test)


def test_three_classes_whose_labels_differ_between_the_groups(rows):
    found = rows("data.yml")
    assert found.label_names == ("hate", "offensive", "neither")
    assert found.group_names == GROUPS
    assert found.warnings == ()
    report = found.of("report")
    shares = np.array([report.in_group(name).having.mean(axis=0) for name in GROUPS])
    assert np.ptp(shares, axis=0).min() > 0.08
    smallest = min(
        int(part.in_group(name).having.sum(axis=0).min())
        for part in (found.of("validation"), report) for name in GROUPS
    )  # fmt: skip
    assert smallest >= 30  # so that every group decides every gap


def test_the_same_rows_with_two_labels(rows):
    found, classes = rows("labels.yml"), rows("data.yml")
    assert found.label_names == ("hateful", "rude")
    assert found.of("report").inputs == classes.of("report").inputs
    assert {tuple(labels) for labels in found.labels.tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_its_merge_names_the_groups():
    recipe = yaml.safe_load((FOLDER / "addition.yml").read_text())
    assert [model["parameters"]["group"] for model in recipe["models"]] == list(GROUPS)
    assert [model["model"] for model in recipe["models"]] == [
        f"runs/hate_speech/groups/{name}" for name in GROUPS
    ]
