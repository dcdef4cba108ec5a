"""What lies beside the weights and belongs to a model comes along, on every route."""

from __future__ import annotations

import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import make_adapter
from beside import PIPELINE, ROUTES, Scene, beside, each_route, edit, write
from checkpoints import rewrite, tokenizer
from mergekit.options import MergeOptions
from refusals import raises
from safetensors.torch import save_file

from mergekit_fair.checkpoints.file_kinds import TOKENIZER
from mergekit_fair.errors import CheckpointError
from mergekit_fair.merging.dry_run import check_merge
from mergekit_fair.merging.manifest import verify
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.progress import Silent

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
    "spoken words": {"alphabet.json": {}, "language_model/attrs.json": {}},
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
        *("checkpoint-9/tokenizer.json", "adapter_config.json", "events.out.x", "head.pkl"),
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


def test_a_downloaded_model_is_links_to_blobs(scene: Scene) -> None:
    write(scene.base, PIPELINE | KINDS["wordpiece"] | KINDS["templates"])
    expected = {path: (scene.base / path).read_bytes() for path in files_in(scene.base)}
    cache = scene.here / "models--me--m"
    (cache / "blobs").mkdir(parents=True)
    snapshot = Path(shutil.move(scene.base, cache / "snapshots" / "1"))
    for number, path in enumerate(files_in(snapshot)):
        blob = cache / "blobs" / str(number)
        (snapshot / path).rename(blob)
        up = "../" * (2 + path.count("/"))
        (snapshot / path).symlink_to(f"{up}blobs/{number}")
    scene.base = snapshot
    found = beside(scene.merge())
    assert found == {path: expected[path] for path in found}
    assert expected.keys() - found.keys() == {"config.json", "model.safetensors"}


def files_in(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_all_of_it_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """mergekit asks the Hub for JSON, weights and one kind of tokenizer."""
    import huggingface_hub

    from mergekit_fair.checkpoints.hub import downloaded

    asked: list[str] = []

    def download(name: str, allow_patterns: list[str], **_: object) -> str:
        asked.extend(allow_patterns)
        return name

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: ["x.safetensors"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    downloaded("me/model")
    wanted = {path for files in KINDS.values() for path in files}
    wanted |= {"config.json", "model.safetensors", "2_Dense/model.safetensors", "modeling_own.py"}
    assert {path for path in wanted if not any(fnmatchcase(path, x) for x in asked)} == set()


def test_a_check_says_what_a_merge_would(scene: Scene) -> None:
    write(scene.a, KINDS["wordpiece"])
    for route in ROUTES:
        recipe = scene.recipe(route)
        found = check_merge(recipe, MergeOptions(quiet=True), MergeSettings(), Silent())
        scene.merge(route)
        assert found["notes"] == scene.notes


def test_without_a_base_the_first_model_gives_what_it_has(scene: Scene) -> None:
    write(scene.a, {"vocab.txt": b"a", "chat_template.jinja": b"a"})
    write(scene.b, {"vocab.txt": b"b", "generation_config.json": {"max_length": 3}})
    out = scene.merge("stock", merge_method="linear", base_model=None, parameters={})
    assert beside(out).keys() == {"vocab.txt", "chat_template.jinja", "generation_config.json"}
    assert (out / "vocab.txt").read_bytes() == b"a"
    (note,) = scene.notes
    assert str(scene.b) in note


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


def test_a_head_beside_a_sentence_encoder(scene: Scene) -> None:
    files = {"config_setfit.json": {"labels": None}, "model_head.pkl": b"one"}
    write(scene.a, files)
    write(scene.b, files)
    assert beside(scene.merge()).keys() == files.keys()
    write(scene.b, {"model_head.pkl": b"two"})
    assert beside(scene.merge()).keys() == {"config_setfit.json"}
    assert "model_head.pkl" in scene.notes[-1]


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


@each_route
def test_without_copy_tokenizer_all_else_comes_along(scene: Scene, route: str) -> None:
    write(scene.base, KINDS["wordpiece"] | KINDS["template"] | KINDS["generation"])
    out = scene.merge(route, {"copy_tokenizer": False}, chat_template="chatml")
    assert beside(out).keys() == KINDS["generation"].keys()
    (note,) = scene.notes
    assert "chat_template" in note


def test_what_lies_beside_adapters_comes_along(scene: Scene) -> None:
    base = scene.base
    for name in ("a", "b"):
        folder = make_adapter(base, scene.here / f"on_{name}", seed=1, targets=["query"])
        write(folder, {"vocab.txt": b"x", "chat_template.jinja": b"{{ x }}", "README.md": b"card"})
        setattr(scene, name, folder)
    out = scene.merge()
    assert beside(out).keys() == {"vocab.txt", "chat_template.jinja"}
    assert all(str(scene.a) in note for note in scene.notes)


@each_route
def test_generation_settings_in_an_old_config(scene: Scene, route: str) -> None:
    """transformers reads them there, and writes them no more."""
    from transformers import GenerationConfig

    edit(scene.base / "config.json", num_beams=4, max_length=77, bad_words_ids=None)
    write(scene.a, {"generation_config.json": {"num_beams": 2}})
    found = GenerationConfig.from_pretrained(scene.merge(route))
    assert (found.num_beams, found.max_length, found.pad_token_id) == (4, 77, 0)
    edit(scene.base / "config.json", num_beams=None, max_length=None)
    assert GenerationConfig.from_pretrained(scene.merge(route)).num_beams == 2


@pytest.fixture
def pipeline(scene: Scene) -> Scene:
    """A sentence encoder as it is published: tokenizer, pooling, a dense layer, prompts."""
    for folder in (scene.base, scene.a, scene.b):
        rewrite(folder, lambda tensors: [tensors.pop(x) for x in list(tensors) if "class" in x])
        rewrite(folder, lambda tensors: rename(tensors, "bert.", ""))
        edit(folder / "config.json", architectures=["BertModel"])
    tokenizer().save_pretrained(scene.base)
    write(scene.base, PIPELINE)
    layer = {"linear.weight": torch.eye(8, 32), "linear.bias": torch.zeros(8)}
    save_file(layer, scene.base / "2_Dense" / "model.safetensors")
    return scene


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    for name in list(tensors):
        tensors[name.replace(old, new, 1)] = tensors.pop(name)


@each_route
def test_a_sentence_encoder_encodes(pipeline: Scene, route: str) -> None:
    """Its vectors are those of the merged encoder, pooled and put through the base's layer."""
    library = pytest.importorskip("sentence_transformers")
    out = pipeline.merge(route)
    model = library.SentenceTransformer(str(out), device="cpu")
    assert model.prompts["query"] == "query: "
    assert model.max_seq_length == 32
    found = model.encode(["the nurse works", "a farmer"])
    assert found.shape == (2, 8)
    (out / "2_Dense" / "model.safetensors").unlink()  # as if the models had differed in it
    with pytest.raises(ValueError, match="safetensors"):
        library.SentenceTransformer(str(out), device="cpu")


@each_route
def test_tokenizer_processor_and_generation_load(scene: Scene, route: str) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    made = tokenizer(model_max_length=48)
    made.chat_template = {"default": "{{ messages }}", "tool": "{{ tools }}"}
    made.save_pretrained(scene.base)
    write(scene.base, {"generation_config.json": {"max_new_tokens": 7}})
    out = scene.merge(route)
    found = AutoTokenizer.from_pretrained(out)
    assert found("the nurse").input_ids == made("the nurse").input_ids
    assert found.model_max_length == 48
    assert found.chat_template == made.chat_template
    assert GenerationConfig.from_pretrained(out).max_new_tokens == 7


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
