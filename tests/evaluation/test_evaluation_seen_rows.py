"""Models are not measured on rows that they were trained on, whatever has changed meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from adapters import make_adapter
from click.testing import CliRunner
from refusals import raises, refusal

from mergekit_fair.checkpoints.trained_rows import FILE, TrainedRows, trained_rows
from mergekit_fair.cli import main
from mergekit_fair.data import DataSpec, load_rows, load_spec
from mergekit_fair.errors import CheckpointError, MeasurementError
from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest
from mergekit_fair.evaluation.seen_rows import SeenRows

OTHER_SEED = {"shares": {"train": 0.5, "validation": 0.25, "report": 0.25}, "seed": 1}
ADVICE = "allow_trained_rows"


def described(family: Path, **changes: Any) -> DataSpec:
    return load_spec({**tiny.data_block(family / "rows.csv"), **changes})


def seen_by(spec: DataSpec, *, allowed: bool = False, limit: int | None = None) -> SeenRows:
    request = EvaluationRequest(tasks=spec, limit=limit, allow_trained_rows=allowed)
    return SeenRows(Evaluator(request))


def counted(spec: DataSpec, model: Path, split: str = "validation") -> int:
    """How many rows are refused, which is what is counted where they are allowed."""
    count = seen_by(spec, allowed=True).counts([str(model)], split).get(spec.name, 0)
    seen_by(spec, allowed=True).require_unseen([str(model)], split)
    if not count:
        seen_by(spec).require_unseen([str(model)], split)
        return 0
    with raises(MeasurementError, f"{count} of the", where=model, fix=ADVICE):
        seen_by(spec).require_unseen([str(model)], split)
    return count


def expected(family: Path, spec: DataSpec, split: str = "validation") -> int:
    """By the texts themselves, without keys."""
    trained = set(load_rows(described(family)).of("train").inputs)
    return sum(text in trained for text in load_rows(spec).of(split).inputs)


@pytest.fixture(scope="module")
def merged(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge of the family, in a folder of its own."""
    out = tmp_path_factory.mktemp("merged") / "model"
    recipe = family / "run" / "addition.yml"
    found = CliRunner().invoke(main, ["merge", str(recipe), str(out), "--quiet"])
    assert found.exit_code == 0, found.output
    return out


@pytest.mark.parametrize("model", ["base", "fft", "lora", "groups/blue", "lora/adapter"])
def test_every_model_of_a_family_knows_its_rows(family: Path, model: str) -> None:
    place, rows = family / "run" / model, load_rows(described(family))
    found = trained_rows(place)
    assert found is not None
    assert set(found.keys.tolist()) == set(rows.of("train").keys().tolist())
    other = described(family, splits=OTHER_SEED)
    for split in ("validation", "report"):
        assert counted(described(family), place, split) == 0
        assert counted(other, place, split) == expected(family, other, split) > 30


def test_the_difference_is_named(family: Path) -> None:
    changed = described(family, splits={**OTHER_SEED, "limit": {"validation": 40}})
    with raises(MeasurementError, where=family / "run" / "fft") as caught:
        seen_by(changed).require_unseen([str(family / "run" / "fft")], "validation")
    assert str(caught.value.got) == "splits.seed: 0 → 1; splits.limit.validation: – → 40"


def test_rows_that_come_limits_and_larger_reports_leak_nothing(
    family: Path, tmp_path: Path
) -> None:
    fft = family / "run" / "fft"
    lines = (family / "rows.csv").read_text().splitlines()
    longer = tmp_path / "rows.csv"
    longer.write_text("\n".join([*lines, "one more,1,blue", lines[-1]]) + "\n")
    assert counted(described(family, source=str(longer)), fft) == 0
    longer.write_text("\n".join([lines[0], *sorted(lines[1:])[::-1]]) + "\n")
    assert counted(described(family, source=str(longer)), fft) == 0
    limits = {**OTHER_SEED, "seed": 0, "limit": {"train": 20, "validation": 30}}
    assert counted(described(family, splits=limits), fft) == 0
    shares = {"shares": {"train": 0.4, "validation": 0.2, "report": 0.4}}
    assert counted(described(family, splits=shares), fft, "report") == 0
    assert counted(described(family, splits=shares), fft) > 0  # where train ended later


def test_merged_models_hand_on_what_they_were_made_of(
    family: Path, merged: Path, tmp_path: Path
) -> None:
    from mergekit_fair.merging.manifest import verify

    other = described(family, splits=OTHER_SEED)
    found = trained_rows(merged)
    assert found is not None
    assert FILE in verify(merged)["files"]
    moved = tmp_path / "elsewhere"
    shutil.copytree(merged, moved)
    (moved / "merge_manifest.json").unlink()  # the inputs may be gone as well
    assert counted(other, moved) == expected(family, other)
    # Of a version that handed nothing on: by the inputs that the manifest names.
    (merged / FILE).rename(tmp_path / "kept")
    assert counted(other, merged) == expected(family, other)
    (tmp_path / "kept").rename(merged / FILE)


def test_inputs_that_are_gone_are_said(family: Path, merged: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(merged, model)
    (model / FILE).unlink()
    manifest = json.loads((model / "merge_manifest.json").read_text())
    manifest["inputs"] = {"x": {"path": str(tmp_path / "gone"), "files": {}}}
    (model / "merge_manifest.json").write_text(json.dumps(manifest))
    seen = seen_by(described(family))
    assert seen.counts([str(model)], "validation") == {}
    (said,) = seen.remarks(str(model))
    assert str(tmp_path / "gone") in said


def test_a_family_that_moves_and_a_folder_that_leaves_it(family: Path, tmp_path: Path) -> None:
    other = described(family, splits=OTHER_SEED)
    shutil.copytree(family / "run", tmp_path / "there")
    shutil.copytree(family / "run" / "fft", tmp_path / "alone")
    shutil.copytree(family / "run" / "lora" / "adapter", tmp_path / "adapter")
    early = tmp_path / "there" / "groups" / "blue" / "checkpoints" / "step-16"
    for model in (tmp_path / "there" / "fft", early, tmp_path / "alone", tmp_path / "adapter"):
        assert counted(other, model) == expected(family, other)
    (tmp_path / "link").symlink_to(tmp_path / "there" / "fft")
    assert counted(other, tmp_path / "link") == expected(family, other)
    # A model of somebody else's inside the family's folder was not trained with it.
    shutil.copytree(tmp_path / "alone", tmp_path / "there" / "foreign")
    (tmp_path / "there" / "foreign" / FILE).unlink()
    assert trained_rows(tmp_path / "there" / "foreign") is None
    assert trained_rows("some/model-of-the-hub") is None


def test_an_adapter_over_a_trained_base(family: Path, tmp_path: Path) -> None:
    base, targets = family / "run" / "base", ["query", "value"]
    adapter = make_adapter(base, tmp_path / "adapter", seed=0, targets=targets)
    other = described(family, splits=OTHER_SEED)
    assert counted(other, adapter) == expected(family, other)
    named = Path(f"{tmp_path / 'nowhere'}+{adapter}")
    assert counted(other, named) == expected(family, other)


def _of_01(run: Path, csv: Path) -> np.ndarray:
    """Make a copied family one of version 0.1; the texts that it was trained on."""
    for file in run.rglob(FILE):
        file.unlink()
    spec = load_spec(tiny.data_block(csv))
    rows = load_rows(spec, as_01=True)
    record = json.loads((run / "train.json").read_text())
    record["settings"]["data_sha256"] = rows.fingerprint()
    record["data"] = spec.to_dict()
    record["source"] |= {"path": str(csv)}
    (run / "train.json").write_text(json.dumps(record))
    return np.array(rows.of("train").inputs)


def test_families_of_version_01_are_dealt_again_as_then(family: Path, tmp_path: Path) -> None:
    """Their rows are others than those that the same description gives today."""
    run, csv = tmp_path / "run", tmp_path / "rows.csv"
    shutil.copytree(family / "run", run)
    shutil.copy(family / "rows.csv", csv)
    trained = set(_of_01(run, csv).tolist())
    today = load_rows(described(family)).of("validation").inputs
    assert counted(described(family), run / "fft") == sum(text in trained for text in today) > 30
    # Rows have come since: which ones were trained on can no longer be said, and that is said.
    csv.write_text(csv.read_text() + "one more,1,blue\n")
    seen = seen_by(described(family))
    assert seen.counts([str(run / "fft")], "validation") == {}
    (said,) = seen.remarks(str(run / "fft"))
    assert str(run) in said


def test_a_base_that_was_not_fitted_has_seen_nothing(family: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(family / "run", run)
    (run / "base" / FILE).unlink()
    record = json.loads((run / "train.json").read_text())
    record["settings"]["head"] = "random"
    (run / "train.json").write_text(json.dumps(record))
    assert trained_rows(run / "base") is None


def test_the_same_people_in_other_words(family: Path) -> None:
    """Another template gives other keys, and deals the rows anew: they are known by number."""
    other = described(family, text="{text} .")
    trained = set(load_rows(described(family)).of("train").ids.tolist())
    measured = load_rows(other).of("validation").ids.tolist()
    found = counted(other, family / "run" / "fft")
    assert found == sum(row in trained for row in measured) > 30


def test_the_datas_own_leaks_are_counted_and_not_refused(family: Path, tmp_path: Path) -> None:
    """Of an official split that holds training texts again, which is warned about already."""
    rows = load_rows(described(family))
    part = dict(zip(rows.ids.tolist(), rows.split.tolist(), strict=True))
    header, *lines = (family / "rows.csv").read_text().splitlines()
    lines = [f"{line},{part[row]}" for row, line in enumerate(lines)]
    again = [line.replace(",train", ",validation") for line in lines if line.endswith(",train")]
    (tmp_path / "rows.csv").write_text("\n".join([f"{header},part", *lines, *again[:7]]) + "\n")
    spec = described(family, source=str(tmp_path / "rows.csv"), splits={"column": "part"})
    seen = seen_by(spec)
    seen.require_unseen([str(family / "run" / "fft")], "validation")
    assert seen.counts([str(family / "run" / "fft")], "validation") == {"tiny": 7}


def test_of_a_sample_only_its_own_rows_count(family: Path) -> None:
    other, fft = described(family, splits=OTHER_SEED), str(family / "run" / "fft")
    few = seen_by(other, allowed=True, limit=20).counts([fft], "validation")["tiny"]
    assert 0 < few <= 20


def test_a_damaged_file_is_no_clean_record(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "run" / "fft", tmp_path / "fft")
    file = tmp_path / "fft" / FILE
    whole = file.read_bytes()
    np.save(tmp_path / "other.npy", np.zeros(3))
    for content in (b"", whole[: len(whole) // 2], (tmp_path / "other.npy").read_bytes()):
        file.write_bytes(content)
        with raises(CheckpointError, where=file):
            trained_rows(tmp_path / "fft")


def test_unions_keep_what_is_not_known() -> None:
    one = TrainedRows(np.array([1, 5], dtype=np.uint64), ({"data": {}},), ("a",))
    two = TrainedRows(np.array([5, 7], dtype=np.uint64), ({"data": {}},), ("b", "a"))
    both = TrainedRows.union([one, two])
    assert both is not None
    assert both.keys.tolist() == [1, 5, 7]
    assert (both.origins, both.unknown) == (({"data": {}},), ("a", "b"))
    assert TrainedRows.union([]) is None


def _asked(*arguments: object) -> Any:
    found = CliRunner().invoke(main, tiny.words_of(*arguments))
    assert found.exit_code == 0, found.output
    return found


def test_eval_refuses_or_counts(family: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.yml"
    data.write_text(yaml.safe_dump({**tiny.data_block(family / "rows.csv"), "splits": OTHER_SEED}))
    fft = family / "run" / "fft"
    words = ["eval", "--model", fft, "--tasks", "fair_adult_sex", "--data", data]
    words += ["--max-length", 16, "--quiet", "-o", tmp_path / "out"]
    refusal(words, MeasurementError, where=fft, fix="--allow-trained-rows")
    assert not list((tmp_path / "out").glob("*"))
    (found,) = json.loads(_asked(*words, "--allow-trained-rows", "--json").stdout)
    count = expected(family, load_spec(data))
    assert found["trained_rows"] == count
    assert any(f"{count} of these {found['n']} rows" in text for text in found["warnings"])
    file = json.loads((tmp_path / "out" / "fair_adult_sex.json").read_text())
    assert file["trained_rows"] == count


def test_a_sweep_refuses_or_counts(family: Path, tmp_path: Path) -> None:
    block = {**tiny.data_block(family / "rows.csv"), "splits": OTHER_SEED}
    settings = {"max_length": 16, "device": "cpu", "min_group_size": 1}
    evaluate: Mapping[str, Any] = {"data": block, **settings}
    changes = {"controls": [], "inject": None, "grid": {"lambda": [0.5]}, "select": tiny.FEWEST}
    path = tiny.write_sweep(family, tmp_path / "sweep.yml", evaluate=evaluate, **changes)
    words = ["sweep", path, "-o", tmp_path / "out", "--no-write", "--quiet"]
    refusal(words, MeasurementError, where=family / "run", fix=ADVICE)
    assert not (tmp_path / "out" / "points.jsonl").exists()
    evaluate = {**evaluate, "allow_trained_rows": True}
    tiny.write_sweep(family, tmp_path / "sweep.yml", evaluate=evaluate, **changes)
    results = json.loads(_asked(*words, "--json").stdout)
    table = _asked(*words).stdout
    for split, points in (("validation", results["points"]), ("report", results["report"])):
        count = expected(family, load_spec(block), split)
        for point in points:
            assert point["evaluation"]["trained_rows"] == count
            said = point["evaluation"]["warnings"]
            assert any(f"{count} of these" in text for text in said)
        assert table.count(f"trained on {count} of the rows") == len(points)


def test_compare_looks_at_samples_that_say_nothing(family: Path, tmp_path: Path) -> None:
    """Of an evaluation by an earlier version, and of stock lm-eval's files."""
    data = tmp_path / "data.yml"
    data.write_text(yaml.safe_dump({**tiny.data_block(family / "rows.csv"), "splits": OTHER_SEED}))
    for name in ("fft", "lora"):
        words = ["eval", "--model", family / "run" / name, "--data", data, "--max-length", 16]
        _asked(*words, "--quiet", "-o", tmp_path / name, "--allow-trained-rows")
    said = f"fft: was trained on {expected(family, load_spec(data))} of these rows"
    notes = json.loads(_asked("compare", tmp_path / "lora", tmp_path / "fft", "--json").stdout)
    assert said in notes["tiny"]["notes"]
    stock = tmp_path / "stock" / "fft"
    stock.mkdir(parents=True)
    time = "2026-01-31T12-00-00.000000"
    shutil.copy(tmp_path / "fft" / "samples_tiny.jsonl", stock / f"samples_tiny_{time}.jsonl")
    for arguments in (f"pretrained={family / 'run' / 'fft'},max_length=16", {"pretrained": "x/y"}):
        results = {"config": {"model_args": arguments}}
        (stock / f"results_{time}.json").write_text(json.dumps(results))
        notes = json.loads(_asked("compare", tmp_path / "lora", stock, "--json").stdout)
        assert (said in notes["tiny"]["notes"]) is isinstance(arguments, str)
