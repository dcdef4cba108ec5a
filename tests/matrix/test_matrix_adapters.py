"""Families × adapters: a merge is that of what peft makes of each adapter, to 1e-6.

Two adapters a family: other ranks, other modules, patterns, rsLoRA, an embedding where it is not
tied, and a part that only one of them holds whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from adapters import added, addition, is_close, make_adapter, merged, merged_by_peft
from checkpoints import read
from mergekit.options import MergeOptions
from zoo import BY_NAME

NEAR = {"rtol": 0, "atol": 1e-6}


@dataclass(frozen=True)
class Family:
    """A row of `zoo`, and what its adapters are put on.

    Attributes:
        name: of the row.
        first, second: `target_modules` of the two adapters.
        whole: the second one's `modules_to_save`.
    """

    name: str
    first: list[str]
    second: list[str]
    whole: list[str]


FAMILIES = (
    Family("bert", ["query", "value"], ["query", "word_embeddings"], ["classifier"]),
    Family("roberta", ["query", "value"], ["key", "word_embeddings"], ["classifier"]),
    Family("distilbert", ["q_lin", "lin1"], ["q_lin", "word_embeddings"], ["classifier"]),
    Family("deberta-v2", ["query_proj", "conv.conv"], ["value_proj"], ["classifier", "pooler"]),
    Family("gpt2", ["c_attn", "c_proj"], ["c_attn", "wte"], ["score"]),
    Family("llama-lm", ["q_proj", "down_proj"], ["q_proj", "embed_tokens"], ["lm_head"]),
    Family("qwen2-lm-tied", ["q_proj", "o_proj"], ["q_proj", "up_proj"], ["norm"]),
    Family("qwen2", ["q_proj", "k_proj"], ["k_proj", "embed_tokens"], ["score"]),
    Family("gemma-lm", ["q_proj", "v_proj"], ["v_proj", "gate_proj"], ["norm"]),
    Family("t5-lm", ["q", "v"], ["v", "wo"], ["final_layer_norm"]),
    Family("t5", ["q", "v"], ["q", "wi"], ["classification_head"]),
    Family("vit", ["q_proj", "v_proj"], ["q_proj", "projection"], ["classifier"]),
    Family("clip", ["q_proj", "fc1"], ["fc1", "patch_embedding"], ["visual_projection"]),
)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def adapted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    """A base and its two adapters."""
    family, row = request.param, BY_NAME[request.param.name]
    torch.manual_seed(0)
    row.cls(row.config()).save_pretrained(tmp_path / "base")
    one, two = family.first
    patterns = {"rank_pattern": {one: 2}, "alpha_pattern": {two: 9}}
    other = {"r": 3, "use_rslora": True, "modules_to_save": family.whole}
    return tmp_path / "base", {
        name: make_adapter(tmp_path / "base", tmp_path / name, seed=seed, targets=targets, **how)
        for seed, (name, targets, how) in enumerate(
            (("Female", family.first, patterns), ("Other", family.second, other))
        )
    }


def test_merged_whole_and_as_an_adapter(
    adapted: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    base, adapters = adapted
    raw, options = addition(base, adapters), MergeOptions(quiet=True)
    exact = added(base, {name: merged_by_peft(base, path) for name, path in adapters.items()})
    whole = read(merged(raw, tmp_path / "whole", options))
    assert is_close(whole, exact, **NEAR)
    out = merged(raw, tmp_path / "adapter", options, as_adapter=True)
    assert is_close(merged_by_peft(base, out, torch.float32), exact, **NEAR)
