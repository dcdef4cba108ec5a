"""What lies beside weights: a scene of bare models, and a merge of them on each route.

scene.base, scene.a, scene.b              # folders with config.json and weights alone
write(scene.a, {"vocab.txt": b"…"})
beside(scene.merge("stock"))              # path → content of what was carried over
scene.notes                               # what was said
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from checkpoints import fine_tune
from mergekit.options import MergeOptions

from mergekit_fair.merging.manifest import verify
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder
from mergekit_fair.progress import Silent

# How a merge runs: by this package, by mergekit for it, by mergekit's own method.
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "streamed": ("subgroup_task_addition", {}),
    "by mergekit": ("subgroup_task_addition", {"safe_serialization": False}),
    "stock": ("task_arithmetic", {}),
}
each_route = pytest.mark.parametrize("route", ROUTES)


class Said(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Scene:
    """A base and two models fine-tuned from it, with nothing beside their weights."""

    def __init__(self, model: Path, here: Path) -> None:
        self.here = here
        self.base, self.a, self.b = (here / name for name in ("base", "a", "b"))
        self.notes: list[str] = []
        for seed, folder in enumerate((self.base, self.a, self.b)):
            fine_tune(model, folder, seed=seed, size=0.01 * seed)
            for file in folder.iterdir():
                if file.name not in ("config.json", "model.safetensors"):
                    file.unlink()

    def merge(self, route: str = "streamed", options: Any = None, **settings: Any) -> Path:
        """The merged folder; what is said is kept in `notes`, and must stand in the manifest."""
        said, out = Said(), self.here / "out"
        changes = ROUTES[route][1] | (options or {})
        merge_to_folder(
            self.recipe(route, **settings),
            out,
            MergeOptions(quiet=True, **changes),
            MergeSettings(overwrite=True),
            said,
        )
        self.notes = said.lines
        assert verify(out)["notes"] == self.notes
        return out

    def recipe(self, route: str, **settings: Any) -> Recipe:
        models = [
            {"model": str(model), "parameters": {"group": model.name, "weight": 0.5}}
            for model in (self.a, self.b)
        ]
        if route == "stock":
            models = [{**item, "parameters": {"weight": 0.5}} for item in models]
        raw = {
            "merge_method": ROUTES[route][0],
            "base_model": str(self.base),
            "models": models,
            "parameters": {"lambda": 1.0},
            "dtype": "float32",
        }
        return Recipe.from_mapping(raw | settings, "r.yml")


def write(folder: Path, files: dict[str, Any]) -> None:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def beside(out: Path) -> dict[str, bytes]:
    """What was carried over: all but what a merge writes of itself."""
    own = re.compile(r"README\.md|config\.json|merge\w+\.(json|yml)|(model|pytorch_model)\..*")
    files = (path for path in out.rglob("*") if path.is_file())
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
    return {path: content for path, content in found.items() if not own.fullmatch(path)}


PIPELINE: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ],
    "config_sentence_transformers.json": {"prompts": {"query": "query: "}},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
    "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
    "2_Dense/config.json": {
        "in_features": 32,
        "out_features": 8,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
}
