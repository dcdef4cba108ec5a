"""Choices that share a prompt: the answers of lm-eval, from one row a document."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from classifiers import lm_tokenizer, write_causal

from mergekit_fair.evaluation.lm import shared_prompts as module
from mergekit_fair.evaluation.lm.shared_prompts import SharedPrompts

LONGEST = 60
_SIZES: dict[str, Any] = {
    **{"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": 2},
    **{"eos_token_id": 3, "pad_token_id": 0},
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
SHARE: dict[str, Any] = {
    "llama": hf.LlamaConfig(**_GROUPED),
    "qwen3": hf.Qwen3Config(**_GROUPED, head_dim=8),
    "gemma3": hf.Gemma3TextConfig(**_GROUPED, head_dim=8),
    "mistral": hf.MistralConfig(**_GROUPED),
    "neox": hf.GPTNeoXConfig(**_SIZES),
    "phi": hf.PhiConfig(**_SIZES),
    "gpt2": hf.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "opt": hf.OPTConfig(**_SIZES, ffn_dim=64, word_embed_proj_dim=32),
}
# What a token sees or where it stands is not what it is told.
APART: dict[str, Any] = {
    "a window": hf.MistralConfig(**_GROUPED, sliding_window=8),
    "local layers": hf.GPTNeoConfig(
        **{"vocab_size": 97, "hidden_size": 32, "num_layers": 2, "num_heads": 4},
        **{"attention_types": [[["global", "local"], 1]], "window_size": 8},
    ),
    "recurrent layers": hf.JambaConfig(
        **_GROUPED, num_experts=2, attn_layer_period=2, attn_layer_offset=1
    ),
    "convolutions": hf.Lfm2Config(**_GROUPED, layer_types=["conv", "full_attention"]),
    "no positions": hf.FalconConfig(**_SIZES, alibi=True),
    "no mask": hf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "a state": hf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2),
}


def opened(config: Any, dtype: torch.dtype, batch_size: int | str = 4) -> Any:
    """lm-eval's model of random weights far from zero."""
    from lm_eval.models.huggingface import HFLM

    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(5)
    return HFLM(
        model, tokenizer=lm_tokenizer(), batch_size=batch_size, max_length=LONGEST, device="cpu"
    )


def questions(seed: int = 0, *, words: int = 5) -> tuple[list[Any], list[str]]:
    """Requests of twelve documents: other choices, some too long, some the same; and owners."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(5, 97) for _ in range(count)]

    pairs, owners = [], []
    for number in range(12):
        context, start = tokens(draw.randrange(1, LONGEST + 8)), tokens(draw.randrange(0, 2))
        for choice in range(draw.randrange(1, 5)):
            said = [*start, *tokens(draw.randrange(1, words))]
            pairs.append(((f"{number}", f"{choice}"), context, said))
            owners.append(f"document {number}")
    pairs.append((("11", "again"), *pairs[-1][1:]))
    pairs.append((("11", "another prompt"), tokens(4), tokens(3)))
    return pairs, [*owners, "document 11", "document 11"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of requests of every call of lm-eval's own scoring."""
    found: list[int] = []

    def count(model: Any, pairs: Sequence[Any], *, quiet: bool = True) -> list[Any]:
        found.append(len(pairs))
        return list(model._loglikelihood_tokens(pairs, disable_tqdm=quiet))

    monkeypatch.setattr(module, "loglikelihood_of_tokens", count)
    return found


def require_alike(found: Sequence[Any], expected: Sequence[Any], pairs: Any, most: float) -> None:
    assert len(found) == len(expected) == len(pairs)
    for ours, theirs, (_, _, said) in zip(found, expected, pairs, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=most * len(said))
        assert isinstance(ours[1], bool)


@pytest.mark.parametrize("name", SHARE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_those_of_lm_eval(name: str, dtype: torch.dtype, asked: list[int]) -> None:
    lm, (pairs, owners) = opened(SHARE[name], dtype), questions()
    expected = lm._loglikelihood_tokens(pairs, disable_tqdm=True)
    shared = SharedPrompts(lm, pairs, owners)
    found = shared.answers()
    # bfloat16: one unit of a log-probability of a token is 1/32.
    require_alike(found, expected, pairs, 1e-4 if dtype == torch.float32 else 0.07)
    if dtype == torch.float32:
        assert [answer[1] for answer in found] == [answer[1] for answer in expected]
    assert shared.answers() == found
    assert len(asked) == 1  # once, and some of them
    assert asked[0] < len(pairs)


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_would_answer_otherwise_is_left_to_lm_eval(
    name: str, dtype: torch.dtype
) -> None:
    lm, (pairs, owners) = opened(APART[name], dtype), questions()
    expected = lm._loglikelihood_tokens(pairs, disable_tqdm=True)
    assert SharedPrompts(lm, pairs, owners).answers() == expected


def test_a_window_that_nobody_reaches_does_no_harm(asked: list[int]) -> None:
    lm = opened(hf.MistralConfig(**_GROUPED, sliding_window=LONGEST), torch.float32)
    pairs, owners = questions()
    SharedPrompts(lm, pairs, owners).answers()
    assert sum(asked) < len(pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_choices_of_one_token_are_read_from_the_prompt_alone(
    dtype: torch.dtype, asked: list[int]
) -> None:
    lm, (pairs, owners) = opened(SHARE["llama"], dtype), questions(words=2)
    pairs = [(key, context, said[-1:]) for key, context, said in pairs][:-1]
    expected = lm._loglikelihood_tokens(pairs, disable_tqdm=True)
    shared = SharedPrompts(lm, pairs, owners[:-1])
    assert all(row.width == 0 and row.kept == 1 for row in shared._rows)
    require_alike(shared.answers(), expected, pairs, 1e-4 if dtype == torch.float32 else 0.07)
    assert sum(asked) < len(pairs)


def test_weights_of_now_and_weights_that_are_broken() -> None:
    """Both in the pass that decides and later; NaN is no answer, and decides nothing."""
    lm, (pairs, owners) = opened(SHARE["llama"], torch.float32), questions()
    shared, weight = SharedPrompts(lm, pairs, owners), lm.model.lm_head.weight
    whole = weight.detach().clone()
    with torch.no_grad():
        for value in (torch.full_like(whole, float("nan")), whole, whole * 0.5):
            weight.copy_(value)
            found = shared.answers()
            expected = lm._loglikelihood_tokens(pairs, disable_tqdm=True)
            if value.isnan().any():
                assert all(answer[0] != answer[0] and not answer[1] for answer in found)
            else:
                require_alike(found, expected, pairs, 1e-4)
        weight.fill_(float("nan"))
        assert all(answer[0] != answer[0] and not answer[1] for answer in shared.answers())


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_batches_change_no_more_than_rounding(batch_size: int | str) -> None:
    pairs, owners = questions()
    lm = opened(SHARE["llama"], torch.float32, batch_size)
    expected = lm._loglikelihood_tokens(pairs, disable_tqdm=True, override_bs=2)
    require_alike(SharedPrompts(lm, pairs, owners).answers(), expected, pairs, 1e-4)


def test_answers_go_into_lm_evals_cache() -> None:
    lm, (pairs, owners) = opened(SHARE["llama"], torch.float32), questions()
    kept: dict[Any, Any] = {}

    class Hook:
        def add_partial(self, kind: str, key: Any, answer: Any) -> None:
            kept[kind, key] = answer

    lm.cache_hook = Hook()
    found = SharedPrompts(lm, pairs, owners).answers()
    assert kept == {("loglikelihood", key): a for (key, _, _), a in zip(pairs, found, strict=True)}


def test_tokens_that_are_read(tmp_path: Path) -> None:
    """A document's row: its prompt once, and after it what its choices have for themselves."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(str(write_causal(tmp_path / "m")), device="cpu", batch_size=2)
    pairs = [(None, [7, 8], [9, 1]), (None, [7, 8], [9, 2, 3]), (None, [7, 8], [4])]
    (row,) = SharedPrompts(lm, pairs, ["a"] * 3)._rows
    assert (row.prompt, list(row.rests)) == ([7, 8], [(9,), (9, 2), ()])
    assert (row.tokens, row.positions, row.parts) == (
        [7, 8, 9, 9, 2],
        [0, 1, 2, 2, 3],
        [0, 0, 1, 2, 2],
    )
    assert list(row.asked()) == [(0, 1, 9), (0, 2, 1), (1, 1, 9), (1, 3, 2), (1, 4, 3), (2, 1, 4)]
