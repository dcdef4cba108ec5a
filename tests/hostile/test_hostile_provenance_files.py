"""What `push` sends and `check` accepts: the model's own files, and none that lie beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from finished import Finished, flip, run
from refusals import refusal
from seals import edited

from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.manifest import MANIFEST
from mergekit_fair.schema import SEAL, sealed


@pytest.fixture(scope="module")
def original(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("files")
    found = Finished(shutil.copytree(swept / "out", folder / "out"), swept / "sweep.yml", swept)
    merged = run("merge", found.recipe, found.model, "--quiet")
    assert merged.exit_code == 0, merged.output
    return found


@pytest.fixture
def finished(original: Finished, tmp_path: Path) -> Finished:
    return Finished(
        shutil.copytree(original.out, tmp_path / "out"), original.sweep, original.models
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "elsewhere" / "secret.txt"
    file.parent.mkdir()
    file.write_text("private")
    return file


def push(finished: Finished) -> list[object]:
    return ["push", finished.out, "me/m", "--dry-run", "--quiet"]


def refused(finished: Finished, *got: str) -> None:
    refusal(push(finished), CheckpointError, *got, where=finished.model)


STRANGE = (
    *("id_rsa", "samples_fair_adult_sex.jsonl", "notes.txt", "optimizer.pt", "scores/a.npy"),
    *("fair_adult_sex.json", "training_args.bin", "model.safetensors.bak"),
)


@pytest.mark.parametrize("name", STRANGE)
def test_a_file_that_the_merge_did_not_write(finished: Finished, name: str) -> None:
    file = finished.model / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("x")
    refused(finished, name)
    assert f"not of the merge: {name}" in run("check", finished.model).stdout


@pytest.mark.parametrize("name", ["adapter_config.json", "model-2.safetensors", "modeling_x.py"])
def test_a_file_that_the_model_would_be_loaded_with(finished: Finished, name: str) -> None:
    (finished.model / name).write_text("{}")
    refused(finished, name)
    refusal(["check", finished.model], CheckpointError, where=finished.model, got=[name])


def test_hidden_files_stay_here(finished: Finished) -> None:
    """Neither sent nor in the way."""
    names = (".env", ".git/config", ".ssh/id_rsa", "1_Pooling/.x/y")
    for name in names:
        (finished.model / name).parent.mkdir(parents=True, exist_ok=True)
        (finished.model / name).write_text("x")
    shown = run(*push(finished))
    assert shown.exit_code == 0, shown.output
    assert not [name for name in names if name in shown.stdout]


def test_a_link_out_of_the_folder(finished: Finished, secret: Path) -> None:
    (finished.model / "extra.txt").symlink_to(secret)
    refused(finished, "extra.txt")


def test_a_link_to_a_folder(finished: Finished, secret: Path) -> None:
    (finished.model / "more").symlink_to(secret.parent)
    refused(finished, "more")


def test_a_link_that_leads_nowhere(finished: Finished) -> None:
    (finished.model / "gone").symlink_to("/no/such/file")
    refused(finished, "gone")


def test_a_listed_file_that_has_become_a_link(finished: Finished, secret: Path) -> None:
    """Of the same content now; it need not be a moment later."""
    weights = finished.model / "model.safetensors"
    moved = secret.parent / "model.safetensors"
    weights.rename(moved)
    weights.symlink_to(moved)
    refusal(push(finished), CheckpointError, where=finished.model, got=["model.safetensors"])


@pytest.mark.parametrize("name", ["../../../elsewhere/secret.txt", "ABSOLUTE", "a/../../x"])
def test_a_manifest_that_lists_files_elsewhere(finished: Finished, secret: Path, name: str) -> None:
    import hashlib

    name = str(secret) if name == "ABSOLUTE" else name
    entry = {"bytes": 7, "sha256": hashlib.sha256(b"private").hexdigest()}
    edited(finished.model / MANIFEST, lambda c: c["files"].update({name: entry}), sealed_again=True)
    for arguments in (push(finished), ["check", finished.model]):
        refusal(arguments, CheckpointError, where=MANIFEST, got=[name])


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"files": 3}', '{"files": {"a": 5}}', '{"files": {"a": {}}}', "{", "\0"],
)
def test_a_manifest_that_is_none(finished: Finished, content: str) -> None:
    (finished.model / MANIFEST).write_text(content)
    for arguments in (push(finished), ["check", finished.model]):
        refusal(arguments, CheckpointError, where=finished.model, fix="mergekit-fair merge")


def test_no_manifest(finished: Finished) -> None:
    """Changed weights are not seen then: nothing goes up."""
    (finished.model / MANIFEST).unlink()
    flip(finished.model / "model.safetensors", -3, 6)
    refused(finished)


@pytest.mark.parametrize("sealed_again", [False, True])
def test_a_manifest_of_other_inputs(finished: Finished, sealed_again: bool) -> None:
    def change(content: dict[str, dict[str, dict[str, str]]]) -> None:
        for entry in content["inputs"].values():
            entry["fingerprint"] = 64 * "0"

    edited(finished.model / MANIFEST, change, sealed_again=sealed_again)
    refusal(push(finished), CheckpointError, where=MANIFEST)


def test_a_manifest_of_changed_weights(finished: Finished) -> None:
    import hashlib

    weights = finished.model / "model.safetensors"
    flip(weights, -3, 6)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    edited(finished.model / MANIFEST, lambda c: c["files"][weights.name].update(sha256=digest))
    refusal(push(finished), CheckpointError, where=MANIFEST)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "README.md"]
)
def test_one_bit_of_a_merged_file(finished: Finished, name: str) -> None:
    flip(finished.model / name, -1, 0)
    refusal(push(finished), CheckpointError, where=finished.model, got=[name])
    refusal(["check", finished.model], CheckpointError, where=finished.model, got=[name])


def test_the_model_of_another_sweep(finished: Finished) -> None:
    """Merged of the same models at another λ, without a word of a sweep."""
    recipe = finished.recipe.read_text().partition("fairness:")[0]
    (finished.out / "other.yml").write_text(recipe.replace("lambda: ", "lambda: 0", 1))
    merge = ["merge", finished.out / "other.yml", finished.model, "--overwrite", "--quiet"]
    assert run(*merge).exit_code == 0
    refused(finished)
    shutil.copy(finished.recipe, finished.model / "mergekit_config.yml")  # and its recipe put there
    refusal(push(finished), CheckpointError, where=finished.model, got=["mergekit_config.yml"])


def test_pages_and_pictures_that_were_changed_do_not_go_up(finished: Finished) -> None:
    for name in ("results.csv", "report.html", "pareto.png"):
        (finished.out / name).write_text("everything is fair")
    shown = run(*push(finished)).stdout
    sizes = {line.split()[-1]: line for line in shown.splitlines() if "fairness/" in line}
    assert {"fairness/results.csv", "fairness/report.html"} <= sizes.keys()
    assert not [line for line in sizes.values() if " 18 B " in line]


def test_what_went_up_can_be_checked(finished: Finished, tmp_path: Path) -> None:
    """A reader's copy is what its manifest says, and prints the digest on the card."""
    from mergekit_fair.progress import Silent
    from mergekit_fair.report.publishing import upload_of_sweep

    scratch, copy = tmp_path / "scratch", tmp_path / "copy"
    scratch.mkdir()
    upload = upload_of_sweep(finished.out, "m", scratch, Silent())
    for name, file in {**upload.files, "README.md": upload.card.encode()}.items():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file if isinstance(file, bytes) else file.read_bytes())
    (copy / ".gitattributes").write_text("*.safetensors filter=lfs")
    found = json.loads(run("check", copy, "--json").stdout)
    assert found["unlisted"] == []
    assert found["fingerprint"] in upload.card
    assert sealed({k: v for k, v in json.loads((copy / MANIFEST).read_text()).items() if k != SEAL})


def test_a_folder_reached_by_a_link_is_a_folder(finished: Finished, tmp_path: Path) -> None:
    """Such as a model on another disk."""
    moved = tmp_path / "disk"
    finished.model.rename(moved)
    finished.model.symlink_to(moved)
    assert run(*push(finished)).exit_code == 0


def test_a_file_that_changes_after_it_was_checked(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked of the Hub then."""
    from mergekit_fair.report import publishing

    checked = publishing.upload_of_sweep

    def changing(*arguments: Any) -> Any:
        upload = checked(*arguments)
        flip(finished.model / "model.safetensors", -3, 6)
        return upload

    monkeypatch.setattr(publishing, "upload_of_sweep", changing)
    refusal(["push", finished.out, "me/m", "--quiet"], CheckpointError, where="model.safetensors")


def test_a_model_of_mergekit_s_own_command(finished: Finished, tmp_path: Path) -> None:
    """It has a recipe and no manifest: it may go up, and its recipe is not said to be proven."""
    from mergekit_fair.checkpoints.fingerprint import model_fingerprint
    from mergekit_fair.report.publishing import _own_files

    model = shutil.copytree(finished.model, tmp_path / "stock")
    (model / MANIFEST).unlink()
    names = _own_files(model, None)
    assert set(names) == {*model_fingerprint(model).files, "mergekit_config.yml"}
