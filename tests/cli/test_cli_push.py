"""`push`: an upload by huggingface_hub to a local server, and a card that says what is known."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import many_answers
import pytest
import tiny
import yaml
from adapters import make_adapter
from click.testing import CliRunner
from evaluations import evaluation, interval
from fake_hub import TOKEN, Hub, fake_hub
from markdown_it import MarkdownIt
from refusals import refusal

from mergekit_fair.checkpoints import trained_rows
from mergekit_fair.cli import main
from mergekit_fair.errors import CheckpointError, ConfigError, MeasurementError
from mergekit_fair.escaping import in_markdown
from mergekit_fair.merging.manifest import MANIFEST


@pytest.fixture(scope="module")
def finished(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep with its model, and a picture and a page that nobody has drawn of it."""
    out = tmp_path_factory.mktemp("push") / "out"
    shutil.copytree(swept / "out", out)
    selected = out / "selected"
    asked("merge", selected / "recipe.yml", selected / "model", "--quiet")
    (out / "pareto.png").write_bytes(b"\x89PNG" + bytes(20_000))
    (out / "report.html").write_text("<p>page</p>")
    return out


@pytest.fixture
def hub() -> Iterator[Hub]:
    with fake_hub() as found:
        yield found


@pytest.fixture
def _here(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub is told in this process what `pushed` has in the environment."""
    from huggingface_hub import constants

    settings = {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def hub_is_here(test: Any) -> Any:
    """In this process: the address of the Hub is read when huggingface_hub is imported."""
    ignored = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of its own
    return pytest.mark.usefixtures("_here")(ignored(test))


def asked(*arguments: object, code: int = 0) -> Any:
    found = CliRunner().invoke(main, tiny.words_of(*arguments))
    assert found.exit_code == code, found.output
    assert "Traceback" not in found.output
    return found


def evaluated(family: Path, model: Path, folder: Path) -> Path:
    """A model's evaluation on the family's report rows."""

    data = folder / "data.yml"
    data.write_text(yaml.safe_dump(tiny.data_block(family / "rows.csv")))
    tasks = ("--tasks", "fair_adult_sex", "--data", data, "--max-length", 16, "--device", "cpu")
    asked("eval", "--model", model, *tasks, "-o", folder / "e", "--split", "report", "--quiet")
    return folder / "e" / "fair_adult_sex.json"


def pushed(url: str, *arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mergekit_fair", "push", *map(str, arguments)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of every table, as a reader sees them."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level > 2:
            shown = [child.content for child in token.children or ()]
            found[-1][-1].append("".join(shown))
    return found


@hub_is_here
def test_a_sweep_goes_up_with_its_card(finished: Path, hub: Hub) -> None:
    done = asked("push", finished, "me/fair-tiny", "--private")
    assert done.stdout.strip() == f"{hub.url}/me/fair-tiny"
    assert hub.private == {"me/fair-tiny": True}
    assert hub.commits == [("me/fair-tiny", "main")]
    files = hub.repos["me/fair-tiny"]
    model = finished / "selected" / "model"
    drawn = ("results.csv", "report.html", "curves.png", "pareto.png")
    expected = {path.name for path in model.iterdir() if path.name != trained_rows.FILE} | {
        f"fairness/{name}" for name in ("results.json", *drawn)
    }
    assert set(files) == expected
    for name in ("model.safetensors", "config.json"):
        assert files[name] == (model / name).read_bytes()
    assert files["fairness/results.json"] == (finished / "results.json").read_bytes()
    for name in (
        "pareto.png",
        "report.html",
    ):  # of the results that were checked, not what lay there
        assert files[f"fairness/{name}"] != (finished / name).read_bytes()
    dry = asked("push", finished, "me/fair-tiny", "--dry-run", "--quiet").stdout
    assert dry.startswith(files["README.md"].decode())
    assert "scores" not in " ".join(files)


def test_the_card_has_the_figures_of_the_report_rows(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    chosen = results["selected"]
    line = next(x for x in results["report"] if x["id"] == chosen["id"])
    metrics = line["evaluation"]["metrics"]
    card = asked("push", finished, "me/fair-tiny", "--dry-run", "--quiet").stdout
    _, front, body = card.split("---\n", 2)
    data = yaml.safe_load(front)
    assert data["pipeline_tag"] == "text-classification"
    assert {"mergekit", "merge", "mergekit-fair", "fairness"} == set(data["tags"])
    assert "base_model" not in data  # a folder of this machine is no model of the Hub
    (entry,) = data["model-index"]
    (found,) = entry["results"]
    assert found["dataset"] == {"name": "tiny", "type": "tiny", "split": "report"}
    values = {metric["type"]: metric["value"] for metric in found["metrics"]}
    assert values["accuracy"] == pytest.approx(metrics["acc"]["value"], abs=1e-6)
    dpd = values["demographic_parity_difference"]
    assert dpd == pytest.approx(metrics["dpd"]["value"], abs=1e-6)
    table, compared, groups = tables(body)[:3]
    assert table[0][:5] == ["model", "kind", "λ_eff", "accuracy", "DPD"]
    assert len(table) == 1 + len(results["report"])
    (own,) = [row for row in table if "chosen" in row[0]]
    assert own[4].startswith(f"{metrics['dpd']['value']:.3f} [{metrics['dpd']['low']:.3f}, ")
    assert [row[0] for row in compared[1:]] == [f"minus {n}" for n in results["comparison"]]
    shown = {row[0]: row[1:3] for row in groups[2:]}
    assert shown == {
        name: [str(group["n"]), str(group["n_pos"])]
        for name, group in line["evaluation"]["groups"].items()
    }
    recipe = (finished / "selected" / "recipe.yml").read_text()
    assert recipe.rstrip() in body
    assert yaml.safe_load(recipe)["fairness"]["rule"] == chosen["rule"]
    assert f"Rule: {in_markdown(chosen['rule'])}. {in_markdown(chosen['reason'])}." in body
    assert f"{len(results['points'])} models were measured on validation rows" in body


def changed(finished: Path, **changes: Any) -> str:
    """The card's body for results that say something else."""
    from mergekit_fair.report.card import card_of_sweep
    from mergekit_fair.sweep.results import SweepResults

    content = json.loads((finished / "results.json").read_text()) | changes
    results = SweepResults.model_validate(content)
    card = card_of_sweep(results, name="m", recipe="", config={}, pictures=[])
    return card.split("---\n", 2)[2]


def test_what_spoils_the_figures_comes_first(finished: Path) -> None:
    body = changed(finished, selected_on="report")
    assert body.index("selected on the report rows") < body.index("## Fairness")
    body = changed(finished, report_opened_for_another_selection=True)
    assert body.index("opened before for another choice") < body.index("## Fairness")
    assert "opened once" not in body


def test_text_of_others_is_shown_and_not_obeyed(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    bad = "a|b](http://x) <script>_1_</script> *c*\n# d"
    line = next(x for x in results["report"] if x["id"] == results["selected"]["id"])
    group = line["evaluation"]["groups"].pop("blue")
    line["evaluation"]["groups"][bad] = group
    body = changed(finished, report=results["report"], warnings=[bad])
    seen = bad.replace("\n", " ")
    assert seen in [row[0] for table in tables(body) for row in table]
    parsed = MarkdownIt("commonmark").enable("table").parse(body)
    kinds = {child.type for token in parsed for child in token.children or ()}
    kinds |= {token.type for token in parsed}
    assert not {"html_inline", "html_block"} & kinds
    links = [c.attrs["href"] for t in parsed for c in t.children or () if c.type == "link_open"]
    assert all(
        str(link).startswith(("https://github.com/", "https://arxiv.org/")) for link in links
    )
    headings = [
        parsed[i + 1].content for i, token in enumerate(parsed) if token.type == "heading_open"
    ]
    assert "d" not in headings


def test_a_recipe_cannot_end_its_block() -> None:
    from mergekit_fair.evaluation.evaluate import Evaluation
    from mergekit_fair.report.card import card_of_evaluations

    metrics = dict.fromkeys(("acc", "dpd", "eod"), interval(0.5, 0.4, 0.6))
    content = evaluation(metrics, split="report", degenerate=True)
    recipe = "merge_method: x\nnote: |\n  ````\n  # heading\n"
    first = Evaluation.from_dict(content)
    card = card_of_evaluations([first], name="m", recipe=recipe, config={})
    parsed = MarkdownIt("commonmark").parse(card.split("---\n", 2)[2])
    assert [token.content for token in parsed if token.type == "fence"] == [recipe]
    assert "degenerate" in card
    assert "have chosen" not in card
    used = {"task": "t", "split": "report", "rule": "maximise acc"}
    again = Evaluation.from_dict({**content, "used_by_selection": used})
    card = card_of_evaluations([again], name="m", recipe="", config={})
    assert card.index("rows have chosen this model") < card.index("## Fairness")
    assert "their own DPD" not in card


@hub_is_here
def test_a_model_goes_up_with_its_evaluations(
    family: Path, finished: Path, tmp_path: Path, hub: Hub
) -> None:
    model = finished / "selected" / "model"
    evaluation = evaluated(family, model, tmp_path)
    asked("push", model, "me/m", "--evaluation", evaluation, "--revision", "v1")
    assert hub.commits == [("me/m", "v1")]
    files = hub.repos["me/m"]
    assert files["fairness/fair_adult_sex.json"] == evaluation.read_bytes()
    card = files["README.md"].decode()
    assert json.loads(evaluation.read_bytes())["fingerprint"]["model"] in card
    assert "fair_adult_sex, report rows; brackets are 95 % intervals" in card
    assert "How it was chosen" not in card
    twice = ("--evaluation", evaluation, "--evaluation", evaluation)
    refusal(["push", model, "me/m", *twice], MeasurementError, where="--evaluation")
    other = ["push", family / "run" / "fft", "me/m", "--evaluation", evaluation]
    refusal(other, MeasurementError, "another model", where=evaluation)


def test_a_model_of_classes_goes_up_with_its_evaluation(tmp_path: Path) -> None:
    data = tmp_path / "data.yml"
    data.write_text(yaml.safe_dump(many_answers.classes_block(many_answers.write_many(tmp_path))))
    model = many_answers.write_head(tmp_path / "head")
    asked("eval", "--model", model, "--data", data, "-o", tmp_path / "e", "--device", "cpu",
          "--split", "report", "--min-group-size", 1, "--quiet")  # fmt: skip
    measured = tmp_path / "e" / "speech.json"
    shown = asked("push", model, "me/m", "--dry-run", "--evaluation", measured).stdout
    found = json.loads(measured.read_text())
    worst = found["worst"]["eod"]["value"]
    front = yaml.safe_load(shown.split("---\n", 2)[1])
    values = {
        metric["type"]: metric["value"]
        for metric in front["model-index"][0]["results"][0]["metrics"]
    }
    assert values["worst_eod"] == pytest.approx(worst, abs=1e-6)
    assert "speech, report rows, each class or label by itself:" in shown
    for name, view in found["views"].items():
        assert f"| **m, {name}** |" in shown
        assert f"{view['metrics']['eod']['value']:.3f} [" in shown


def test_a_merged_adapter_goes_up(family: Path, tmp_path: Path) -> None:
    base, models = family / "run" / "base", []
    for seed, group in enumerate(("blue", "green")):
        adapter = make_adapter(base, tmp_path / group, seed=seed, targets=["query", "value"])
        models.append({"model": str(adapter), "parameters": {"group": group}})
    raw = {"merge_method": "subgroup_task_addition", "base_model": str(base), "models": models}
    recipe, out = tmp_path / "recipe.yml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump({**raw, "parameters": {"lambda": 0.3}, "dtype": "float32"}))
    asked("merge", recipe, out, "--adapter", "--quiet")
    measured = evaluated(family, out, tmp_path)
    shown = asked("push", out, "me/m", "--dry-run", "--evaluation", measured).stdout
    assert "library_name: peft\n" in shown
    assert " adapter_config.json\n" in shown
    assert " adapter_model.safetensors\n" in shown
    (out / "adapter_model.safetensors").unlink()
    push = ["push", out, "me/m", "--evaluation", measured]
    refusal(push, CheckpointError, "1 files", where=out)


@hub_is_here
def test_a_model_of_a_grid_goes_up_with_the_digests_of_the_hub(
    family: Path, tmp_path: Path, hub: Hub
) -> None:
    raw = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(family / "run" / "base"),
        "models": [{"model": str(family / "run" / "fft"), "parameters": {"group": "blue"}}],
        "parameters": {"lambda": 0.3},
        "dtype": "float32",
    }
    recipe, out = tmp_path / "recipe.yml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(raw))
    asked("merge", recipe, out, "--lambda", "0:0.5:0.5", "--quiet")
    model = out / "lambda_0.5"
    assert "xxh3_128" in (model / MANIFEST).read_text()
    asked("push", model, "me/m", "--evaluation", evaluated(family, model, tmp_path))
    files = hub.repos["me/m"]
    manifest = json.loads(files[MANIFEST])
    assert manifest["fingerprint"] in files["README.md"].decode()
    listed = manifest["files"]
    assert listed.keys() == files.keys() - {MANIFEST}
    for name, entry in listed.items():
        digest = hashlib.sha256(files[name]).hexdigest()
        assert entry == {"bytes": len(files[name]), "sha256": digest}, name


@pytest.mark.parametrize("repo", ["model", "a/b/c", "me/sp ace"])
def test_a_repository_that_cannot_be(finished: Path, repo: str) -> None:
    push = ["push", finished, repo, "--dry-run"]
    refusal(push, ConfigError, where="REPO", got=repo, allowed="NAMESPACE/NAME")


def test_what_cannot_be_pushed_is_said(finished: Path, tmp_path: Path) -> None:
    model = finished / "selected" / "model"
    refusal(["push", model, "me/m", "--dry-run"], ConfigError, "measurements")
    refusal(["push", tmp_path, "me/m"], CheckpointError, "config.json", where=tmp_path)
    folder = tmp_path / "changed"
    shutil.copytree(finished, folder)
    weights = folder / "selected" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    refusal(["push", folder, "me/m"], CheckpointError, "1 files")
    shutil.rmtree(folder / "selected" / "model")
    refusal(["push", folder, "me/m"], CheckpointError, "is not there")


def test_files_in_folders_go_up(finished: Path, tmp_path: Path) -> None:
    """Such as the modules of a sentence encoder; and what was merged of them is checked."""
    from mergekit_fair.merging.manifest import read_manifest
    from mergekit_fair.merging.model_files import write_manifest

    folder = shutil.copytree(finished, tmp_path / "out")
    model = folder / "selected" / "model"
    inputs = read_manifest(model)["inputs"]
    for name in ("1_Pooling/config.json", "2_Dense/model.safetensors", ".cache/private"):
        (model / name).parent.mkdir()
        (model / name).write_text("{}")
    write_manifest(model, inputs, {})
    shown = asked("push", folder, "me/m", "--dry-run", "--quiet").stdout
    assert " 1_Pooling/config.json\n" in shown
    assert " 2_Dense/model.safetensors\n" in shown
    assert "private" not in shown
    (model / "1_Pooling" / "config.json").write_text("{ }")
    refusal(["push", folder, "me/m"], CheckpointError, got=["1_Pooling/config.json"])
    (model / "model.safetensors").unlink()
    write_manifest(model, inputs, {})
    refusal(["push", folder, "me/m"], CheckpointError, "weights", where=model)


@pytest.mark.slow
def test_a_hub_that_refuses_or_is_not_there(finished: Path, hub: Hub) -> None:
    done = pushed(hub.url, finished, "me/fair-tiny")
    assert done.stdout.strip() == f"{hub.url}/me/fair-tiny", done.stderr
    hub.commits.clear()
    refused = pushed(hub.url, finished, "me/fair-tiny", token="hf_of_a_reader")
    assert refused.returncode == 2
    assert "(401). Run `hf auth login`" in refused.stderr
    nowhere = pushed("http://127.0.0.1:1", finished, "me/fair-tiny")
    assert nowhere.returncode == 1
    assert "http://127.0.0.1:1" in nowhere.stderr
    unlike = pushed(hub.url, finished, "me/a..b")
    assert unlike.returncode == 2
    assert "\nError: REPO: " in f"\n{unlike.stderr}"
    assert "Traceback" not in refused.stderr + nowhere.stderr + unlike.stderr
    assert hub.commits == []
