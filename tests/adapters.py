"""Real peft adapters over tiny checkpoints, without training: seeded A and B, both non-zero.

adapter = make_adapter(family.base, tmp_path / "women", seed=1, targets=["query"])
merged_by_peft(family.base, adapter)      # θ = W + s·B·A by peft, in float64
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checkpoints import VOCABULARY, read, tokenizer
from safetensors.torch import load_file, save_file

TARGETS = {
    "bert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin", "lin1"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "vit": ["q_proj", "v_proj"],
}
HEADS = {
    "bert": ["classifier"],
    "distilbert": ["classifier"],  # and by its end, `pre_classifier`
    "llama": ["score"],
    "gpt2": ["score"],
    "vit": ["classifier"],
}


def make_adapter(base: Path, folder: Path, *, seed: int, targets: Any, **settings: Any) -> Path:
    """An adapter that peft has made and saved; what it saves whole is moved, too.

    Args:
        base: the model's folder.
        folder: where to write.
        seed: of A, B and the noise on `modules_to_save`.
        targets: peft's `target_modules`.
        settings: more of peft's `LoraConfig`.
    """
    import peft

    torch.manual_seed(seed)
    how = {"r": 4, "lora_alpha": 6, "init_lora_weights": False} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Conv1D and embeddings make peft say what it does
        model = peft.get_peft_model(_loaded(base), peft.LoraConfig(target_modules=targets, **how))
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if ".lora_" in name:
                    tensor.copy_(0.1 * torch.randn(tensor.shape))
                elif ".modules_to_save." in name:
                    tensor.add_(0.05 * torch.randn(tensor.shape))
        model.save_pretrained(folder)
    return folder


def merged_by_peft(
    base: Path, adapter: Path, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """The tensors of peft's `merge_and_unload`, under their names in files."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(_loaded(base).to(dtype), adapter).to(dtype)
        merged = model.merge_and_unload()
    merged.save_pretrained(adapter / "merged")
    tensors = read(adapter / "merged")
    for file in (adapter / "merged").iterdir():
        file.unlink()
    (adapter / "merged").rmdir()
    return tensors


def edit_config(adapter: Path, **changes: Any) -> Path:
    """Set keys of adapter_config.json."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return adapter


def edit_weights(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Let `change` edit the adapter's tensors in place, and save them."""
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, file)
    return adapter


def gpt2(folder: Path, kind: str = "GPT2ForSequenceClassification") -> Path:
    """A tiny GPT-2, by default with two classes; its attention's `c_proj` is square."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    getattr(hf, kind)(config).save_pretrained(folder)
    tokenizer(model_input_names=["input_ids", "attention_mask"]).save_pretrained(folder)
    return folder


def _loaded(base: Path) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    return getattr(transformers, config.architectures[0]).from_pretrained(base)
