"""kill -9 at any moment: never half a model, and the next run cleans up and gives the same."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import Family, fine_tune, tokenizer

from mergekit_fair.checkpoints.folder import read_config, tensor_infos
from mergekit_fair.errors import CheckpointError
from mergekit_fair.schema import dump_yaml

KILLS = 50
OLD, NEW = 0.5, 0.3


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """`mortal(order)` → its answer; the imports are made once."""
    script = Path(__file__).with_name("mortal.py")
    errors = (tmp_path_factory.mktemp("mortal") / "errors").open("w+")
    process = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        text=True,
    )

    def ask(order):
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, Path(errors.name).read_text()
        return json.loads(answer)

    yield ask
    process.stdin.close()
    process.wait(60)
    process.stdout.close()
    errors.close()


@pytest.fixture(scope="module")
def middling(tmp_path_factory):
    """A family of three models of 14 MB, the base in shards."""
    import transformers

    folder = tmp_path_factory.mktemp("middling")
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=8192, num_hidden_layers=4, **sizes)
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(folder / "whole")
    tokenizer().save_pretrained(folder / "whole")
    groups = {
        name: fine_tune(folder / "whole", folder / name, seed=seed)
        for seed, name in enumerate(("Female", "Male"))
    }
    model.save_pretrained(folder / "base", max_shard_size="4MB")
    tokenizer().save_pretrained(folder / "base")
    return Family(folder / "base", folder / "whole", groups)


class Scene:
    """A folder with the recipes of an old and a new model, and what both have to be."""

    def __init__(self, here, family, mortal):
        self.here, self.out, self._mortal = here, here / "out", mortal
        self.known = {}
        for scale in (OLD, NEW):
            (here / f"{scale}.yml").write_text(dump_yaml(family.addition(lambda_=scale)))
            assert self.merge(scale)["status"] == 0
            self.known[scale] = content(self.out)
            self.out.rename(here / str(scale))
        assert self.known[OLD] != self.known[NEW]
        self.clean = names(here)

    def merge(self, scale, *, overwrite=False, **when):
        recipe = str(self.here / f"{scale}.yml")
        order = {"recipe": recipe, "out": str(self.out), "overwrite": overwrite}
        return self._mortal(order | when)

    def prepare(self, *, is_there):
        """The old model as `out`, by links to its files; or none."""
        shutil.rmtree(self.out, ignore_errors=True)
        if is_there:
            shutil.copytree(self.here / str(OLD), self.out, copy_function=os.link)

    def check(self, *, is_there):
        """After a kill only whole models are there; after the next run, the new one alone."""
        whole = [self.known[NEW], *([self.known[OLD]] if is_there else [])]
        assert names(self.here) <= self.clean | {"out", ".out.partial", ".out.old", ".out.lock"}
        found = content(self.out)
        assert not self.out.exists() or found in whole
        old, partial = self.here / ".out.old", self.here / ".out.partial"
        assert not old.exists() or content(old) == self.known[OLD]
        if loads(partial):
            assert weights(content(partial)) in map(weights, whole)
        is_done = found == self.known[NEW]
        assert self.merge(NEW, overwrite=is_there or is_done)["status"] == 0
        assert content(self.out) == self.known[NEW]
        assert names(self.here) == self.clean | {"out"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def content(folder):
    """File → SHA-256."""
    files = folder.iterdir() if folder.exists() else ()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def weights(found):
    return {name: digest for name, digest in found.items() if "safetensors" in name}


def loads(folder):
    try:
        return bool(read_config(folder)) and bool(tensor_infos(folder))
    except CheckpointError:
        return False


@pytest.mark.slow
def test_killed_at_random_moments(mortal, middling, tmp_path):
    scene = Scene(tmp_path, middling, mortal)
    assert len(weights(scene.known[NEW])) > 5
    end = min(scene.merge(NEW, overwrite=True)["seconds"] for _ in range(2))
    chance = random.Random(0)
    killed = 0
    for turn in range(2 * KILLS):
        # All over the run, and more often at its end, where folders are renamed.
        moment = chance.uniform(0, 1) if turn % 5 < 3 else chance.uniform(0.85, 1)
        is_there = turn % 2 == 1
        scene.prepare(is_there=is_there)
        answer = scene.merge(NEW, overwrite=is_there, delay=moment * end)
        is_killed = answer["status"] == signal.SIGKILL
        killed += is_killed
        end *= 1.01 if is_killed else 0.95  # follows the end of the runs
        scene.check(is_there=is_there)
        if killed == KILLS:
            break
    assert killed == KILLS  # the others were done before


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "overwrite"])
def test_killed_before_each_step(mortal, tiny, tmp_path, is_there):
    """Each time that it makes, opens, renames or removes something."""
    scene = Scene(tmp_path, tiny("bert"), mortal)
    for step in range(1, 100):
        scene.prepare(is_there=is_there)
        answer = scene.merge(NEW, overwrite=is_there, step=step)
        scene.check(is_there=is_there)
        if answer["status"] == 0:
            break
        assert answer["status"] == signal.SIGKILL
    assert step > 10
