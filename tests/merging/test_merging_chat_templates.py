"""Chat templates lie in many places; a merged model has one, or the base's as they are."""

from __future__ import annotations

from typing import Any

import pytest
from beside import Scene, beside, each_route, edit, write
from checkpoints import tokenizer

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
