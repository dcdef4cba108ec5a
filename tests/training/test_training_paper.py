"""`recipes/paper`: the settings of arXiv 2505.24262, and each from rows to page in small."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from classifiers import lm_tokenizer
from click.testing import CliRunner
from pictures import write_vit
from refusals import refusal
from tiny import BAD, GOOD

from mergekit_fair.cli import main
from mergekit_fair.data import load_spec
from mergekit_fair.errors import CheckpointError, DataError
from mergekit_fair.merging.in_memory import load_tensors
from mergekit_fair.resources import recipes_folder, tasks_dir
from mergekit_fair.sweep.sweep_config import load_sweep
from mergekit_fair.training.train_config import Lora, load_train_config

PAPER = recipes_folder("paper")
FILLERS = ["a", "b", "c", "d", "e"]
# folder → learning rate, batch, epochs, warm-up, scheduler; LoRA's rank, alpha, rate, epochs
LLAMA = (1e-5, 32, 1, 0.01, "cosine")
COMMENTS = (1e-5, 16, 2, 0.0, "linear")
FACES = (1e-4, 16, 3, 0.0, "linear")
SETTINGS = {
    "dlab_gender": (*LLAMA, 8, 16, 3e-4, 2),
    "dlab_race": (*LLAMA, 8, 16, 3e-4, 6),
    "civil_distilbert": (*COMMENTS, 8, 16, 3e-4, None),
    "civil_qwen": (*COMMENTS, 8, 16, 3e-4, None),
    "utkface_gender": (*FACES, 16, 16, 1e-3, None),
    "utkface_race": (*FACES, 16, 16, 1e-3, None),
}
DESCRIPTIONS = {
    "dlab_gender": "fair_dlab_hate/data_gender",
    "dlab_race": "fair_dlab_hate/data_race",
    "civil_comments": "fair_civil_comments/data_gender",
    "utkface_gender": "fair_utkface/data_gender",
    "utkface_race": "fair_utkface/data_race",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_hyper_parameters_grid_and_groups(name: str) -> None:
    config = load_train_config(PAPER / name / "train.yml", seed=4)
    training, lora, groups = config.training, config.lora, config.subgroups
    assert isinstance(lora, Lora)
    assert groups
    batch = training.batch_size * training.arguments.get("gradient_accumulation_steps", 1)
    assert SETTINGS[name] == (
        *(training.learning_rate, batch, training.epochs, training.warmup, training.scheduler),
        *(lora.rank, lora.alpha, lora.learning_rate, lora.epochs),
    )
    assert (config.seed, config.seeds, config.head) == (4, 1, "random")
    assert (groups.method, groups.steps, training.weight_decay) == ("fft", "match", 0.01)
    sweep = load_sweep(PAPER / name / "sweep.yml")
    assert sweep.grid == {"lambda": pytest.approx([each / 10 for each in range(11)])}
    assert sweep.inject_grid == pytest.approx([each / 5 for each in range(6)])
    described = config.data.groups
    named = dict(described.columns or {})
    assert all("other" in each.lower() for each in described.exclude)
    if named:  # UTKFace's are values of a column
        deciding = [each for each in named if each not in described.exclude]
        assert list(sweep.recipe.groups()) == deciding
    assert sweep.config.evaluate.data == config.data


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_rows_are_those_of_the_tasks(name: str) -> None:
    ours = load_spec(PAPER / "data" / f"{name}.yml")
    task = load_spec(tasks_dir() / f"{DESCRIPTIONS[name]}.yml")
    both = [spec.to_dict() | {"name": name} for spec in (ours, task)]
    for block in both:  # relative paths of pictures begin beside the file
        block.get("image", {}).pop("folder", None)
    assert both[0] == both[1]


def _text(draw: random.Random, label: bool, surely: float) -> str:
    words = GOOD if (draw.random() < surely) == label else BAD
    return " ".join([draw.choice(words), *(draw.choice(FILLERS) for _ in range(5))])


def _dlab(columns: list[str], draw: random.Random) -> Iterator[dict[str, Any]]:
    """A row for every annotator: text and score are the comment's, targets their own."""
    for comment in range(400):
        score = draw.uniform(-4, 5)
        text = f"{_text(draw, score > 0.5, 0.9)} {comment}"
        targets = draw.sample(columns, 3)
        for annotator in range(draw.randint(1, 3)):
            seen = {column: column in targets and annotator < 2 for column in columns}
            row = {"comment_id": comment, "text": text, "hate_speech_score": score}
            yield row | {"annotator_id": annotator} | seen


def _civil(columns: list[str], draw: random.Random) -> Iterator[dict[str, Any]]:
    for comment in range(400):
        toxicity = draw.random()
        text = f"{_text(draw, toxicity > 0.5, 0.9)} {comment}"
        split = draw.choice(["train", "train", "val", "test"])
        row = {"id": comment, "comment_text": text, "split": split, "toxicity": toxicity}
        yield row | {column: draw.choice([0.0, 0.2, 0.6, 1.0]) for column in columns}


def _faces(columns: list[str], draw: random.Random) -> Iterator[dict[str, Any]]:
    """Pictures go into the working directory."""
    assert not columns
    from PIL import Image

    for face in range(700):
        age = draw.randint(1, 60)
        pixels = np.random.default_rng(face).integers(0, 90, (8, 8, 3)) + 120 * (age > 30)
        Image.fromarray(pixels.astype("uint8")).save(f"{face}.png")
        ethnicity = draw.choice(["White", "Black", "Asian", "Indian", "Other"])
        row = {"image": f"{face}.png", "age": age, "gender": draw.choice(["Male", "Female"])}
        yield row | {"ethnicity": ethnicity}


def _model(folder: Path, name: str) -> None:
    """Tiny, of the class that the setting's name on the Hub has, with what is odd about it there:
    Llama-2 is stored in float16 and has no padding token, Qwen2.5 in bfloat16 with tied weights."""
    import transformers as hf

    if name.startswith("utkface"):
        write_vit(folder)
        return
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *FILLERS]
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "vocab_size": 200, "initializer_range": 0.2}
    torch.manual_seed(0)
    model: Any
    if name == "civil_distilbert":
        sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": len(words)}
        model = hf.DistilBertForMaskedLM(hf.DistilBertConfig(**sizes, initializer_range=0.2))
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        hf.DistilBertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    else:
        tokenizer = lm_tokenizer()
        if name == "civil_qwen":
            config = hf.Qwen2Config(**sizes, num_key_value_heads=2, tie_word_embeddings=True)
            model = hf.Qwen2ForCausalLM(config).to(torch.bfloat16)
        else:
            model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes)).to(torch.float16)
            tokenizer.pad_token = None
        tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _change(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes, sort_keys=False))


@pytest.fixture
def in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The setting's files with generated rows in the place of the Hub's and a tiny model."""

    def write(name: str) -> Path:
        monkeypatch.chdir(tmp_path)
        recipes = Path("paper")
        shutil.copytree(PAPER, recipes)
        train = recipes / name / "train.yml"
        description = recipes / name / yaml.safe_load(train.read_text())["data"]
        block = yaml.safe_load(description.read_text())
        made = {"dlab": _dlab, "civi": _civil, "utkf": _faces}[name[:4]]
        columns = block["groups"].get("columns", [])
        columns = list(columns.values()) if isinstance(columns, dict) else columns
        rows = made(columns, random.Random(0))
        lines = [json.dumps(row) for row in rows]
        Path("rows.jsonl").write_text("\n".join(lines) + "\n")
        image = {"image": {"column": "image", "folder": str(tmp_path)}}
        moved = image if "image" in block else {}
        _change(description, source=str(tmp_path / "rows.jsonl"), **moved)
        _model(tmp_path / "model", name)
        training = yaml.safe_load(train.read_text())["training"]
        arguments = training.get("arguments", {})  # these two ask for a GPU
        training["arguments"] = {k: v for k, v in arguments.items() if k not in ("optim", "tf32")}
        training["learning_rate"] *= 100  # of a tiny model that starts from nothing
        _change(train, model=str(tmp_path / "model"), training=training)
        sweep = recipes / name / "sweep.yml"
        evaluate = yaml.safe_load(sweep.read_text())["evaluate"]
        _change(sweep, evaluate=evaluate | {"min_group_size": 5})
        return recipes / name

    return write


def _run(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code in (0, 3), result.output
    return result.stdout


def test_dry_run_says_rows_and_steps(in_small: Any) -> None:
    """LoRA's epochs are its own, and groups match the model of all rows."""
    setting = in_small("dlab_gender")
    arguments = ("train", setting / "train.yml", "-o", "runs/paper/dlab_gender")
    lines = _run(*arguments, "--dry-run", "--quiet").splitlines()
    assert not Path("runs").exists()
    fft, lora, men = (line.split(", ") for line in lines[:3])
    steps = int(fft[2].split()[0])
    assert fft[0] == "fft: fft"
    assert lora == ["lora: lora", fft[1], f"{2 * steps} steps"]
    assert men[0] == "groups/men: fft"
    assert men[2] == fft[2]
    assert len(lines) == 2 + 6


def test_what_is_not_there_is_named(in_small: Any) -> None:
    """Offline, and before anything is trained."""
    setting = in_small("dlab_race")
    train, sweep = setting / "train.yml", setting / "sweep.yml"
    dry = ("--dry-run", "--quiet", "-o", "out")
    refusal(["sweep", sweep, *dry], CheckpointError, where="runs/paper/dlab_race")
    _change(train, model="meta-llama/Llama-2-7b-hf")
    refusal(["train", train, *dry], CheckpointError, where="meta-llama/Llama-2-7b-hf")
    _change(train, model="model")
    hub = yaml.safe_load((PAPER / "data" / "dlab_race.yml").read_text())["source"]
    _change(setting.parent / "data" / "dlab_race.yml", source=hub)
    for file in (train, sweep):
        refusal([file.stem, file, *dry], DataError, where=hub["hub"])
    assert not Path("out").exists()


def test_the_plan_counts_the_weights_that_the_models_are_known_to_have() -> None:
    spec = importlib.util.spec_from_file_location("paper_plan", PAPER / "plan.py")
    assert spec is not None
    assert spec.loader is not None
    plan = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = plan
    spec.loader.exec_module(plan)
    known = {  # without the language model's head, with one of two outputs
        "meta-llama/Llama-2-7b-hf": 6_738_415_616 - 32_000 * 4096 + 2 * 4096,
        "Qwen/Qwen2.5-0.5B": 494_032_768 + 2 * 896,
        "distilbert/distilbert-base-uncased": 66_955_010,
        "google/vit-base-patch16-224-in21k": 85_800_194,
    }
    for name, count in known.items():
        model = plan.classifier(name, device="meta")
        assert sum(each.numel() for each in model.parameters()) == count
    used = {load_train_config(PAPER / each / "train.yml").model for each in SETTINGS}
    assert used == known.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_from_rows_to_page(in_small: Any, name: str) -> None:
    setting, out = in_small(name), Path("runs/paper") / name
    planned = _run("train", setting / "train.yml", "-o", out, "--dry-run", "--quiet").splitlines()
    _run("train", setting / "train.yml", "-o", out, "--seed", "3", "--quiet")
    runs = json.loads((out / "train.json").read_text())["runs"]
    del runs["base"]
    assert planned == [
        f"{key}: {each['method']}, {each['n']} rows, {each['steps']} steps"
        for key, each in runs.items()
    ]
    assert {each["seed"] for each in runs.values()} == {3}
    base = load_tensors(out / "base")
    assert {each.dtype for each in base.values()} == {torch.float32}
    fft, lora = (
        {key for key, each in load_tensors(out / run).items() if not torch.equal(each, base[key])}
        for run in ("fft", "lora")
    )
    assert len(fft) > 0.7 * len(base)  # not the pooler, or biases of keys, which nothing moves
    assert len(lora) >= 2 * 2 + 1  # queries and values of two layers, and the head
    assert lora < fft
    sweep = ("sweep", setting / "sweep.yml", "-o", out / "sweep", "--quiet")
    plan = json.loads(_run(*sweep, "--dry-run", "--json"))
    assert plan["injection_points_of_the_worst_group"] == 6
    _run(*sweep)
    results = json.loads((out / "sweep" / "results.json").read_text())
    kinds = [point["kind"] for point in results["points"]]
    assert (kinds.count("merge"), kinds.count("baseline")) == (11, 2)
    assert f"groups/{results['worst_group']['name']}" in runs
    assert "<html" in (out / "sweep" / "report.html").read_text()
