"""An audit and a sweep over adapters of a large language model: peak of memory, and where the time
goes.

    python benchmarks/large_adapters.py --work DIR                  # shapes of Llama 3.2 3B
    python benchmarks/large_adapters.py --work DIR --targets all    # adapters on every linear layer
    python benchmarks/large_adapters.py --work DIR --layers 2 --hidden 384 --vocabulary 512  # runs?

Makes a base of random weights, a small tokenizer, two adapters (rank 8, query and value) and twenty
short texts with a question to be answered by no or yes, ten a split; DIR keeps them (7 GB). Then

    audit   `mergekit-fair audit` of λ = 0.5: base, both parents, merge on ten documents
    sweep   `mergekit-fair sweep` over three λ, ten documents a split

each as a process of its own under Python's profiler. Printed are the process's peak of resident
memory (`ru_maxrss`, which `/usr/bin/time -v` prints, too), seconds by the clock, and of these what
each stage took. Prints the size of what the commands leave behind.
"""

from __future__ import annotations

import argparse
import os
import pstats
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

GROUPS, TASK = ("a", "b"), "large_adapters"
QUESTION = "Is this true?"
TARGETS = {
    "attention": ["q_proj", "v_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
WORDS = ("the", "day", "was", "and", "very", "house", "road", "we", "saw", "fine", "poor", "cold")
PROFILED = """
import cProfile, sys
from mergekit_fair.cli import main
profile, file = cProfile.Profile(), sys.argv.pop(1)
try:
    profile.runcall(main)
finally:
    profile.dump_stats(file)
"""
# Stage → the functions whose time, with all that they call, it is.
STAGES = {
    "digests of files": {("fingerprint.py", "model_fingerprint")},
    "opening the base": {("evaluator.py", "open"), ("in_memory.py", "share")},
    "composing": {("assign.py", "assign")},
    "forward passes": {("responses.py", "run")},
    "writing the choice": {("selected.py", "write_selected"), ("to_disk.py", "merge_to_folder")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--targets", choices=TARGETS, default="attention")
    given = parser.parse_args()
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "base").is_dir():
        make_base(work / "base", given)
    if not (work / given.targets / GROUPS[-1]).is_dir():
        make_adapters(work / "base", work / given.targets, TARGETS[given.targets])
    write_files(work, work / given.targets)
    print(f"base: {size(work / 'base') / 1e9:.2f} GB, adapters on {given.targets}", flush=True)
    recipe, out = work / given.targets / "recipe.yml", work / "out"
    for name, words in {
        "audit": ["audit", recipe, "--tasks", TASK, "--include-path", work],
        "sweep": ["sweep", work / given.targets / "sweep.yml"],
    }.items():
        shutil.rmtree(out, ignore_errors=True)
        measured(name, [str(word) for word in (*words, "-o", out)], work / f"{name}.profile")
        print(f"  left behind {size(out) / 1e6:.0f} MB", flush=True)


def make_base(folder: Path, given: argparse.Namespace) -> None:
    """A causal model of random weights, written shard by shard, and a tokenizer of whole words."""
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    config = hf.LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.hidden,
        intermediate_size=given.hidden * 8 // 3,
        num_hidden_layers=given.layers,
        num_attention_heads=max(given.hidden // 128, 1),
        num_key_value_heads=max(given.hidden // 384, 1),
        head_dim=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = hf.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e9:.2f} B parameters", flush=True)
    model.save_pretrained(folder, max_shard_size="2GB")
    known = ["[UNK]", "<s>", "</s>", "no", "yes", *WORDS, *QUESTION.rstrip("?").split(), "?", ":"]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(known))}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)


def make_adapters(base: Path, out: Path, targets: list[str]) -> None:
    """Of random numbers: B too, so that they change what the model says."""
    import peft
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    for seed, group in enumerate(GROUPS):
        torch.manual_seed(seed)
        how = peft.LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=targets,
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        adapted: Any = peft.get_peft_model(model, how)
        adapted.save_pretrained(out / group)
        model = adapted.unload()


def write_files(work: Path, adapters: Path) -> None:
    """Texts, a task over them, a recipe and a sweep."""
    draw, lines = random.Random(0), ["text,label,group,split"]
    for row, split in enumerate(["validation"] * 10 + ["report"] * 10 + ["train"] * 4):
        text = " ".join(draw.choices(WORDS, k=32))
        lines.append(f"{text},{row // 2 % 2},{GROUPS[row % 2]},{split}")
    (work / "rows.csv").write_text("\n".join(lines) + "\n")
    data = {
        "name": "rows",
        "source": str(work / "rows.csv"),
        "text": "text",
        "label": {"column": "label"},
        "groups": {"column": "group"},
        "splits": {"column": "split"},
    }
    task = {
        "include": str(Path(__file__).parents[1] / "evals" / "_fair_binary"),
        "task": TASK,
        "dataset_kwargs": {"question": QUESTION, "spec": data},
        "metadata": {"version": 1.0},
    }
    recipe = {
        "merge_method": "subgroup_task_addition",
        "base_model": str(work / "base"),
        "models": [
            {"model": str(adapters / group), "parameters": {"group": group, "weight": 1.0}}
            for group in GROUPS
        ],
        "parameters": {"lambda": 0.5},
        "dtype": "bfloat16",
    }
    sweep = {
        "recipe": str(adapters / "recipe.yml"),
        "grid": {"lambda": [0.25, 0.5, 0.75]},
        "evaluate": {"data": data, "question": QUESTION, "min_group_size": 1},
        "select": {"maximize": "acc", "subject_to": {"dpd": "<= 1"}},
    }
    files = {
        work / f"{TASK}.yaml": task,
        adapters / "recipe.yml": recipe,
        adapters / "sweep.yml": sweep,
    }
    for path, content in files.items():
        path.write_text(yaml.safe_dump(content, sort_keys=False))


def measured(name: str, words: list[str], profile: Path) -> None:
    """Run a command, and print its peak, its seconds and where they went."""
    command = [sys.executable, "-c", PROFILED, str(profile), *words, "--quiet"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise SystemExit(f"{name} has failed:\n{said}")
    print(
        f"{name}: at the peak of memory {used.ru_maxrss / 1e6:.1f} GB, {seconds:.0f} s "
        f"({used.ru_utime + used.ru_stime:.0f} s of a processor)",
        flush=True,
    )
    left = seconds
    stats: Any = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    for stage, functions in STAGES.items():
        calls, spent = 0, 0.0
        for (file, _, function), (_, count, _, cumulative, _) in stats.items():
            if (Path(file).name, function) in functions and "mergekit_fair" in file:
                calls, spent = calls + count, spent + cumulative
        left -= spent
        print(f"  {stage:20} {spent:7.1f} s  {calls:3d} calls")
    print(f"  {'all else':20} {left:7.1f} s")


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
