"""What every model of a study gives on report rows, over seeds of training and splits.

    python benchmarks/studies.py --study redditbias --seeds 3 -o DIR   # of recipes/, or any folder
    python benchmarks/studies.py -o DIR                                # the tables of what is there

A study is a folder with `train.yml` and `study.yml`, of which `evaluate`, `grid` and `search` are
read. Seed 0 is as the files say; further seeds train otherwise, on rows that are dealt anew. Each
has a folder DIR/STUDY/seed-N, and is made there by commands that anybody can repeat:

    train train.yml -o models                 base, FFT, LoRA, a soup, a model for each group
    sweep lambda.yml -o lambda                one λ for all groups, and the random control
    sweep lambda_g.yml -o lambda_g            a search over λ_g
    heads models/fft … -o heads               a fair head, and others on the same features
    merge heads/recipe.yml fair_head
    eval --model MODEL … -o eval/MODEL        of all models on report rows

With --laboratory the systems of `study_systems.py` stand beside them, on the same rows: other kinds
of training, AWD, PAVE, bases, and λ learned by gradient. costs.json has what every command took.

Both sweeps choose by RULE on validation rows. Where one keeps FFT, or FFT's head stays, the row has
FFT's figures and says so. DIR/STUDY/seed-N.json has the figures and their paired differences from
FFT. Everything can be killed: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from study_figures import figures, study_tables
from study_systems import FURTHER_TRAINED, LEARNED, SWEPT, SweptSystem

ROOT = Path(__file__).parents[1]
RULE = {"minimize": "eod", "subject_to": {"acc": ">= fft - 0.03"}}
SWEEPS = {"lambda": "grid", "lambda_g": "search"}
TRAINED = ("fft", "lora", "soup")
HEADS = {"fft": ("heads", "fair_head"), "soup": ("soup_heads", "fair_soup")}
CHOSEN, KEPT = 0, 3  # how sweeps and heads exit
SOUP = 3  # FFT models, of seeds that follow each other
APART = 100  # between the seeds of two families


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", nargs="+", default=[], help="of recipes/, or a folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3], help="N, or first and end")
    parser.add_argument("--bf16", action="store_true", help="train so: quicker on many machines")
    parser.add_argument("--model", type=Path, help="a folder: another model than the study's")
    parser.add_argument("--heads-only", action="store_true", help="FFT and its heads")
    parser.add_argument("--laboratory", action="store_true", help="further systems, too")
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    recipes = [study_folder(name) for name in given.study]
    for number in range(*given.seeds):
        for recipe in recipes:
            name = "-".join([recipe.name, *([given.model.name] if given.model else [])])
            folder = given.out.absolute() / name / f"seed-{number}"
            Seed(
                recipe,
                number,
                folder,
                given.model,
                given.bf16,
                given.heads_only,
                given.laboratory,
            ).run()
    print(study_tables(given.out))


def study_folder(name: str) -> Path:
    """A folder with the files of a study, here or in recipes/."""
    places = [Path(name).absolute(), ROOT / "recipes" / name]
    for folder in places:
        if all((folder / file).is_file() for file in ("train.yml", "study.yml")):
            return folder
    sys.exit(f"{name}: no train.yml and study.yml in {' or '.join(map(str, places))}")


@dataclass(frozen=True)
class Seed:
    """One seed of a study: a family of models, and what is measured of it."""

    recipe: Path
    number: int
    folder: Path
    model: Path | None
    bf16: bool
    heads_only: bool
    laboratory: bool = False

    def run(self) -> None:
        self.write_files()
        self.command("train", "train.yml", "-o", "models")
        for sweep in () if self.heads_only else SWEEPS:
            self.command("sweep", f"{sweep}.yml", "-o", sweep, exits=(CHOSEN, KEPT))
        models = {name: f"models/{name}" for name in (*TRAINED, *FURTHER_TRAINED)}
        models |= {sweep: f"{sweep}/selected/model" for sweep in SWEEPS}
        if self.laboratory:
            models |= {name: self.swept(name, system) for name, system in SWEPT.items()}
            models |= {name: self.learned(name, words) for name, words in LEARNED.items()}
        for target, (out, merged) in HEADS.items():
            model, recipe = models[target], f"{out}/recipe.yml"
            if not (self.folder / model).is_dir():
                continue
            words = ["heads", model, *self.options, "-o", out, "--overwrite"]
            self.once(out, words, model, exits=(CHOSEN, KEPT))
            if (self.folder / recipe).is_file():
                self.once(merged, ["merge", recipe, merged, "--overwrite"], model, recipe)
                models[merged] = merged
        for name, model in models.items():
            if (self.folder / model).is_dir():
                self.evaluate(name, model, "report")
        self.evaluate("fft", models["fft"], "validation")
        about = {"study": self.folder.parent.name, "seed": self.number}
        text = json.dumps({**about, **figures(self.folder)}, indent=1, ensure_ascii=False)
        self.folder.with_suffix(".json").write_text(text + "\n", encoding="utf-8")

    def swept(self, name: str, system: SweptSystem) -> str:
        """Make what a system merges, and choose its λ as for plain addition; the model's folder."""
        if system.kind:
            block = {**self.training["subgroups"], "method": system.kind}
            alone = {"seeds": 1, "lora": False, **dict.fromkeys(FURTHER_TRAINED, False)}
            self.write(f"train_{name}", self.training | alone | {"subgroups": block})
            self.command("train", f"train_{name}.yml", "-o", system.folder)
        for words in system.commands:
            self.once(system.folder, [*words, "-o", system.folder, "--overwrite"], "models/base")
        recipe = _read(self.folder / system.recipe)
        if system.method:
            recipe |= {"merge_method": system.method, "parameters": {"lambda": 0.2}}
            at = (self.folder / system.recipe).parent
            recipe["base_model"] = str(at / recipe["base_model"])
            for item in recipe["models"]:
                item["model"] = str(at / item["model"])
            self.write(f"{name}_recipe", recipe)
        path = f"{name}_recipe.yml" if system.method else system.recipe
        self.write(name, self.sweep("grid") | {"recipe": path, "controls": []})
        self.command("sweep", f"{name}.yml", "-o", name, exits=(CHOSEN, KEPT))
        return f"{name}/selected/model"

    def learned(self, name: str, words: tuple[str, ...]) -> str:
        """λ by gradient, from those that λ = 0.2 gives; the model's folder, if there is one."""
        command = ["learn", "models/addition.yml", "--data", "data.yml", *words]
        if "max_length" in self.evaluation:
            command += ["--max-length", str(self.evaluation["max_length"])]
        if self.bf16:
            command.append("--bf16")
        made = [*command, "-o", name, "--overwrite"]
        self.once(name, made, "models/base", exits=(CHOSEN, KEPT))
        if (self.folder / name / "recipe.yml").is_file():
            merge = ["merge", f"{name}/recipe.yml", f"{name}_merged", "--overwrite"]
            self.once(f"{name}_merged", merge, f"{name}/recipe.yml")
        return f"{name}_merged"

    def write_files(self) -> None:
        """What the commands are given."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write("data", self.data)
        self.write("train", self.training)
        for sweep, stage in SWEEPS.items():
            self.write(sweep, self.sweep(stage))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """A YAML file in the seed's folder."""
        text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        (self.folder / f"{name}.yml").write_text(text, encoding="utf-8")

    @property
    def training(self) -> dict[str, Any]:
        given = _read(self.recipe / "train.yml")
        seed = given.get("seed", 0) + APART * self.number
        given |= {"data": "data.yml", "seed": seed, "seeds": SOUP}
        if self.model:
            given |= {"model": str(self.model.absolute()), "sha256": None}
        if self.bf16:
            given["training"] |= {"bf16": True}
        if self.heads_only:
            given |= {"seeds": 1, "lora": False, "subgroups": False}
        if self.laboratory:
            given |= {name: {} for name in FURTHER_TRAINED}
        return given

    @cached_property
    def data(self) -> dict[str, Any]:
        """The description; rows of further seeds are dealt in the same proportions."""
        from mergekit_fair.data import load_rows, spec_inside

        train = self.recipe / "train.yml"
        spec = spec_inside(_read(train)["data"], train)
        block = spec.to_dict()
        splits = block["splits"]
        if self.number and spec.splits.column:
            if spec.splits.ignore:
                sys.exit(f"{train}: rows that a column leaves out cannot be dealt")
            rows = load_rows(spec)
            counts = {name: len(rows.of(name).labels) for name in spec.splits.present}
            kept = {key: splits[key] for key in ("by", "limit", "on_leak") if key in splits}
            splits = kept | {"shares": {n: c / len(rows.labels) for n, c in counts.items()}}
        return block | {"splits": splits | {"seed": splits.get("seed", 0) + self.number}}

    @property
    def evaluation(self) -> dict[str, Any]:
        return _read(self.recipe / "study.yml")["evaluate"] | {"data": "data.yml"}

    def sweep(self, stage: str) -> dict[str, Any]:
        """A sweep over the study's grid, or its search."""
        return {
            "recipe": "models/addition.yml",
            stage: _read(self.recipe / "study.yml")[stage],
            "evaluate": self.evaluation,
            "baselines": {"fft": "models/fft"},
            "controls": ["random"],
            "select": RULE,
            "seed": self.number,
        }

    @property
    def options(self) -> list[str]:
        """Of `eval` and `heads`."""
        return [
            word
            for key, value in self.evaluation.items()
            for word in (f"--{key.replace('_', '-')}", str(value))
        ]

    def evaluate(self, name: str, model: str, split: str) -> None:
        out = f"eval/{name}-{split}"
        words = ["eval", "--model", model, "--split", split, "-o", out, *self.options]
        self.once(out, [*words, "--overwrite"], model)

    def once(self, out: str, words: list[str], *of: str, exits: Collection[int] = (0,)) -> None:
        """A command, unless it has made `out` before, of these rows, models and files."""
        from mergekit_fair.checkpoints.fingerprint import model_fingerprint, sha256
        from mergekit_fair.schema import digest_of_json

        paths = [self.folder / each for each in of]
        digests = [sha256(p) if p.is_file() else model_fingerprint(p).digest for p in paths]
        made_of = digest_of_json([words, digests, self.data])
        note = self.folder / f"{out}.made_of"
        if note.is_file() and note.read_text() == made_of:
            return
        self.command(*words, exits=exits)
        note.write_text(made_of)

    def command(self, *words: str, exits: Collection[int] = (0,)) -> None:
        """Run one in the seed's folder; its output goes to a log there."""
        print(f"{self.recipe.name}, seed {self.number}: {' '.join(words)}", file=sys.stderr)
        log, start = self.folder / f"{words[0]}.log", time.monotonic()
        with log.open("a", encoding="utf-8") as stream:
            run = subprocess.Popen(
                [sys.executable, "-m", "mergekit_fair", *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
            _, status, usage = os.wait4(run.pid, 0)
            run.returncode = os.waitstatus_to_exitcode(status)
        self.note_cost(words, usage, time.monotonic() - start)
        if run.returncode not in exits:
            sys.exit(f"exit code {run.returncode}:\n{log.read_text(errors='replace')[-2000:]}")

    def note_cost(self, words: tuple[str, ...], usage: Any, wall: float) -> None:
        """Seconds and peak memory, by what was made; of a command that goes on, all in all."""
        path = self.folder / "costs.json"
        costs = json.loads(path.read_text()) if path.is_file() else {}
        made = words[words.index("-o") + 1] if "-o" in words else words[2]
        before = costs.get(made, {"cpu_s": 0.0, "wall_s": 0.0, "peak_mb": 0.0})
        costs[made] = {
            "cpu_s": before["cpu_s"] + usage.ru_utime + usage.ru_stime,
            "wall_s": before["wall_s"] + wall,
            "peak_mb": max(before["peak_mb"], usage.ru_maxrss / 1000),
        }
        path.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, Mapping), path
    return dict(content)


if __name__ == "__main__":
    main()
