"""What lies beside the weights and belongs to a model comes along, on every route."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from adapters import make_adapter
from checkpoints import fine_tune, tokenizer
from mergekit.options import MergeOptions
from refusals import raises

from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.file_kinds import TOKENIZER
from mergekit_fair.merging.model_files import verify
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

    def __init__(self, folder: Path) -> None:
        self.here = folder
        self.base, self.a, self.b = (folder / name for name in ("base", "a", "b"))
        self.notes: list[str] = []

    def merge(self, route: str = "streamed", options: Any = None, **settings: Any) -> Path:
        """The merged folder; what is said is kept in `notes`, and must stand in the manifest."""
        method, more = ROUTES[route]
        models = [
            {"model": str(model), "parameters": {"group": model.name, "weight": 0.5}}
            for model in (self.a, self.b)
        ]
        if route == "stock":
            models = [{**item, "parameters": {"weight": 0.5}} for item in models]
        raw = {
            "merge_method": method,
            "base_model": str(self.base),
            "models": models,
            "parameters": {"lambda": 1.0},
            "dtype": "float32",
        } | settings
        said = Said()
        out = self.here / "out"
        merge_to_folder(
            Recipe.from_mapping(raw, "r.yml"),
            out,
            MergeOptions(quiet=True, **(more | (options or {}))),
            MergeSettings(overwrite=True),
            said,
        )
        self.notes = said.lines
        assert verify(out)["notes"] == self.notes
        return out


@pytest.fixture
def scene(tiny: Any, tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    for seed, folder in enumerate((scene.base, scene.a, scene.b)):
        fine_tune(tiny("bert").base, folder, seed=seed, size=0.01 * seed)
        for file in folder.iterdir():
            if file.name not in ("config.json", "model.safetensors"):
                file.unlink()
    return scene


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

KINDS: dict[str, dict[str, Any]] = {
    "wordpiece": {"vocab.txt": b"[UNK]\n", "tokenizer_config.json": {}, "tokenizer.json": {}},
    "byte pairs": {"vocab.json": {}, "merges.txt": b"a b", "added_tokens.json": {}},
    "sentencepiece": {"spiece.model": b"\1", "special_tokens_map.json": {}},
    "versions of one tokenizer": {"tokenizer.json": {}, "tokenizer.4.0.0.json": {}},
    "two languages": {"source.spm": b"\1", "target.spm": b"\2", "vocab.json": {}},
    "tiktoken": {"words.tiktoken": b"IQ== 0"},
    "mistral": {"tekken.json": {}, "tokenizer.model.v3": b"\1"},
    "second tokenizer": {"qformer_tokenizer/vocab.txt": b"x", "processor_config.json": {}},
    "template": {"chat_template.jinja": b"{{ x }}", "tokenizer_config.json": {}},
    "templates": {"chat_template.jinja": b"x", "additional_chat_templates/tool.jinja": b"y"},
    "old template": {"chat_template.json": {"chat_template": "{{ x }}"}},
    "generation": {"generation_config.json": {"max_length": 9}, "custom_generate/generate.py": b""},
    "pictures": {"preprocessor_config.json": {"image_processor_type": "ViTImageProcessor"}},
    "video": {"video_preprocessor_config.json": {}, "preprocessor_config.json": {}},
    "sound": {"preprocessor_config.json": {"feature_size": 80}, "audio_tokenizer_config.json": {}},
    "pipeline": PIPELINE,
    "pipeline with code": {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "own.Model"}],
        "own.py": b"class Model: ...",
        "1_Own/own_pooling.py": b"",
    },
    "tokenizer with code": {"tokenizer_config.json": {"auto_map": {}}, "tokenization_x.py": b"x"},
}
KINDS["pipeline with code"]["modules.json"] += [{"path": "1_Own", "type": "own_pooling.Pool"}]


@each_route
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_base_has_comes_along(scene: Scene, route: str, kind: str) -> None:
    write(scene.base, KINDS[kind])
    write(scene.a, KINDS[kind])
    out = scene.merge(route)
    expected = {path: (scene.base / path).read_bytes() for path in KINDS[kind]}
    assert beside(out) == expected
    assert verify(out)["files"].keys() >= expected.keys()
    assert scene.notes == []


@each_route
@pytest.mark.parametrize("kind", KINDS)
def test_what_only_the_others_have_comes_along_with_a_note(
    scene: Scene, route: str, kind: str
) -> None:
    write(scene.b, KINDS[kind])
    found = beside(scene.merge(route))
    assert found.keys() == (
        {"chat_template.jinja"} if kind == "old template" else KINDS[kind].keys()
    )
    assert scene.notes
    assert all(str(scene.b) in note and str(scene.base) in note for note in scene.notes)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "pytorch_model.bin",
            "optimizer.pt",
            "scheduler.pt",
            "rng_state.pth",
            "training_args.bin",
        ),
        *(
            "trainer_state.json",
            "all_results.json",
            "README.md",
            "LICENSE",
            "run.py",
            "notes.ipynb",
        ),
        *(".gitattributes", ".env", ".tokenizer.json", "onnx/model.onnx", "onnx/config.json"),
        *("checkpoint-9/tokenizer.json", "adapter_config.json", "model_head.pkl", "events.out.x"),
        *("1_Pooling/.hidden", "1_Pooling/__pycache__/own.pyc", "3_Else/config.json"),
        *("additional_chat_templates/notes.txt", "merge_manifest.json"),
    ],
)
def test_what_does_not_belong_to_a_model_stays(scene: Scene, name: str) -> None:
    write(scene.base, PIPELINE | {name: b"private"})
    out = scene.merge()
    assert beside(out).keys() == PIPELINE.keys()
    assert not any(b"private" in path.read_bytes() for path in out.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "path", ["../beside", "/etc", "1_Pooling/../../beside", ".git", ".", 7, None]
)
def test_modules_outside_the_model_folder_stay(scene: Scene, path: object) -> None:
    write(scene.here, {"beside/secret": b"private", "base/.git/config": b"private"})
    write(scene.base, {"modules.json": [{"path": path, "type": "sentence_transformers.X"}, "x"]})
    assert beside(scene.merge()).keys() == {"modules.json"}


def test_a_link_out_of_a_downloaded_model_is_refused(scene: Scene) -> None:
    snapshot = scene.here / "hub" / "models--me--m" / "snapshots" / "1"
    shutil.copytree(scene.base, snapshot)
    (snapshot / "1_Pooling").mkdir()
    write(snapshot, {"modules.json": PIPELINE["modules.json"]})
    (scene.here / "secret").write_text("private")
    (snapshot / "1_Pooling" / "config.json").symlink_to(scene.here / "secret")
    scene.base = snapshot
    with raises(CheckpointError, "link", where="1_Pooling/config.json"):
        scene.merge()
    shutil.rmtree(snapshot / "1_Pooling")
    (scene.here / "secrets").mkdir()
    write(scene.here / "secrets", {"config.json": {}})
    (snapshot / "1_Pooling").symlink_to(scene.here / "secrets")
    with raises(CheckpointError, "link", where="1_Pooling"):
        scene.merge()


@each_route
def test_weights_of_modules_come_along_if_all_have_the_same(scene: Scene, route: str) -> None:
    weights = "2_Dense/model.safetensors"
    for folder in (scene.base, scene.a):
        write(folder, PIPELINE | {weights: b"one"})
    assert beside(scene.merge(route))[weights] == b"one"
    assert scene.notes == []
    write(scene.b, {**PIPELINE, weights: b"two"})
    assert beside(scene.merge(route)).keys() == PIPELINE.keys()
    (note,) = scene.notes
    assert weights in note


@each_route
def test_models_that_do_not_agree_are_named(scene: Scene, route: str) -> None:
    write(scene.a, {"tokenizer.json": {"model": 1}, "generation_config.json": {"max_length": 3}})
    write(scene.b, {"tokenizer.json": {"model": 2}, "generation_config.json": {"max_length": 3}})
    assert beside(scene.merge(route)).keys() == {"generation_config.json"}
    left, carried = scene.notes
    assert all(text in left for text in ("tokenizer.json", str(scene.a), str(scene.b)))
    assert "generation config" in carried


def test_what_a_saver_says_of_itself_is_no_difference(scene: Scene) -> None:
    said = {"transformers_version": "4.1", "name_or_path": "x", "truncation": None, "model": 1}
    write(scene.a, {"tokenizer.json": said, "merges.txt": b"a b"})
    write(scene.b, {"tokenizer.json": {"truncation": {"max_length": 3}, "model": 1}})
    assert beside(scene.merge()).keys() == {"tokenizer.json", "merges.txt"}
    write(scene.b, {"merges.txt": b"b a"})
    assert beside(scene.merge()) == {}
    (scene.b / "merges.txt").unlink()
    (scene.b / "tokenizer.json").rename(scene.b / "vocab.txt")
    assert beside(scene.merge()) == {}
    assert "tokenizer.json" not in scene.notes[0].split("differ")[0]


TEMPLATES: dict[str, dict[str, Any]] = {
    "file": {"chat_template.jinja": b"{{ x }}\n"},
    "old file": {"chat_template.json": {"chat_template": "{{ x }}"}},
    "in the tokenizer": {"tokenizer_config.json": {"chat_template": "{{ x }}"}},
    "in the processor": {"processor_config.json": {"chat_template": "{{ x }}"}},
    "in a list": {
        "tokenizer_config.json": {"chat_template": [{"name": "default", "template": "{{ x }}"}]}
    },
}


@pytest.mark.parametrize("one", TEMPLATES)
@pytest.mark.parametrize("other", TEMPLATES)
def test_templates_agree_wherever_they_lie(scene: Scene, one: str, other: str) -> None:
    for folder, where in ((scene.a, one), (scene.b, other)):
        write(folder, TEMPLATES[where])
        write(scene.base, {name: {} for name in TEMPLATES[where] if name.endswith("config.json")})
    assert beside(scene.merge())["chat_template.jinja"].strip() == b"{{ x }}"
    (note,) = scene.notes
    assert "chat template" in note
    write(scene.b, {"chat_template.jinja": b"{{ y }}"})
    assert "chat_template.jinja" not in beside(scene.merge())


def test_a_template_of_the_base_stays_wherever_it_lies(scene: Scene) -> None:
    for where in TEMPLATES.values():
        write(scene.base, where)
        write(scene.a, {"chat_template.jinja": b"{{ y }}"})
        found = beside(scene.merge())
        assert found == {path: (scene.base / path).read_bytes() for path in where}
        for path in where:
            (scene.base / path).unlink()


@each_route
@pytest.mark.parametrize("asked", ["chatml", "{{ messages[0].content }}", "auto"])
def test_the_recipes_template_is_the_only_one(scene: Scene, route: str, asked: str) -> None:
    from transformers import AutoTokenizer

    tokenizer().save_pretrained(scene.base)
    edit(scene.base / "tokenizer_config.json", chat_template="{{ stale }}", tokenizer_class="x")
    edit(scene.base / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    write(scene.base, {"chat_template.json": {"chat_template": "{{ stale }}"}})
    write(scene.base, {"additional_chat_templates/tool.jinja": b"{{ stale }}"})
    for folder in (scene.a, scene.b):
        write(folder, {"chat_template.jinja": b"{{ theirs }}"})
    out = scene.merge(route, chat_template=asked)
    assert beside(out).keys() == {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
    found = AutoTokenizer.from_pretrained(out).chat_template
    assert {"chatml": "<|im_start|>", "auto": "{{ theirs }}"}.get(asked, asked) in found
    assert "stale" not in "".join(path.read_text() for path in out.glob("*.j*"))


@each_route
def test_a_template_without_a_tokenizer(scene: Scene, route: str) -> None:
    assert beside(scene.merge(route, chat_template="{{ messages[0].content }}")) == {
        "chat_template.jinja": b"{{ messages[0].content }}"
    }
    assert beside(scene.merge(route, chat_template="auto")) == {}


@each_route
def test_without_copy_tokenizer_all_else_comes_along(scene: Scene, route: str) -> None:
    write(scene.base, KINDS["wordpiece"] | KINDS["template"] | KINDS["generation"])
    out = scene.merge(route, {"copy_tokenizer": False}, chat_template="chatml")
    assert beside(out).keys() == KINDS["generation"].keys()
    (note,) = scene.notes
    assert "chat_template" in note


@pytest.mark.parametrize("route", ["streamed", "stock"])
def test_a_tokenizer_that_mergekit_builds_is_the_only_one(scene: Scene, route: str) -> None:
    for folder in (scene.base, scene.a, scene.b):
        tokenizer().save_pretrained(folder)
        edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    write(scene.base, {"vocab.txt": b"old", "generation_config.json": {}})
    out = scene.merge(
        route, tokenizer={"source": "base"}, chat_template="{{ messages[0].content }}"
    )
    found = beside(out)
    assert "vocab.txt" not in found
    assert found["chat_template.jinja"] == b"{{ messages[0].content }}"
    assert found.keys() >= {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}


def test_what_lies_beside_adapters_comes_along(scene: Scene) -> None:
    base = scene.base
    for name in ("a", "b"):
        folder = make_adapter(base, scene.here / f"on_{name}", seed=1, targets=["query"])
        write(folder, {"vocab.txt": b"x", "chat_template.jinja": b"{{ x }}", "README.md": b"card"})
        setattr(scene, name, folder)
    out = scene.merge()
    assert beside(out).keys() == {"vocab.txt", "chat_template.jinja"}
    assert all(str(scene.a) in note for note in scene.notes)


NAMED = {"0": "no", "1": "yes"}
Edits = Callable[[Scene], None]


@each_route
def test_names_of_classes_that_only_fine_tunes_have(scene: Scene, route: str) -> None:
    from transformers import AutoConfig

    edit(scene.base / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    edit(scene.a / "config.json", id2label=NAMED, label2id={"no": 0, "yes": 1})
    edit(scene.b / "config.json", id2label=None)
    config = AutoConfig.from_pretrained(scene.merge(route))
    assert (config.id2label, config.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    (note,) = scene.notes
    assert str(scene.a) in note


@pytest.mark.parametrize(
    ("names", "other", "settings"),
    [
        (NAMED, {"0": "yes", "1": "no"}, {}),
        (NAMED, {"0": "No", "1": "Yes"}, {}),
        ({"0": "no", "1": "yes", "2": "x"}, None, {}),
        ({"0": "no"}, None, {}),
    ],
)
def test_names_of_classes_that_do_not_fit(
    scene: Scene, names: Any, other: Any, settings: Any
) -> None:
    edit(scene.base / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    edit(scene.a / "config.json", id2label=names)
    edit(scene.b / "config.json", id2label=other)
    config = json.loads((scene.merge("stock", **settings) / "config.json").read_text())
    assert "yes" not in str(config.get("id2label"))
    (note,) = scene.notes
    assert str(scene.a) in note


def test_the_head_of_the_base_has_the_classes_of_the_base(scene: Scene) -> None:
    edit(scene.base / "config.json", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    edit(scene.a / "config.json", id2label=NAMED)
    config = json.loads((scene.merge(parameters={"head": "base"}) / "config.json").read_text())
    assert "yes" not in str(config.get("id2label"))
    assert len(scene.notes) == 1


def test_every_tokenizer_of_transformers_is_known() -> None:
    """Names of files in the sources of transformers' tokenizers, also of newer versions."""
    import transformers

    names: set[str] = set()
    for source in Path(transformers.__file__).parent.glob("**/token*.py"):
        text = source.read_text(encoding="utf-8")
        names |= set(re.findall(r"""_file["']: *["']([\w.-]+\.\w+)["']""", text))
    assert len(names) > 15
    unknown = {
        name
        for name in names
        if not any(fnmatchcase(name, pattern) for pattern in TOKENIZER.patterns)
    }
    assert unknown == set()
