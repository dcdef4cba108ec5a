"""The models that the published shapes merge: `lab/stem` and what is made from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from checkpoints import fine_tune
from safetensors.torch import load_file, save_file

LAYERS, VOCABULARY = 4, 70  # no other dimension is 70
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
MORE = ("<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"

_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0}
_SIZES |= {"bos_token_id": 1, "eos_token_id": 2}
_BLOCKS: dict[str, Any] = {"num_hidden_layers": LAYERS, "num_attention_heads": 2}
_BLOCKS |= {"hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 32}
_LLAMA = _SIZES | _BLOCKS | {"num_key_value_heads": 1}
_GPT2 = {"n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": 32}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _LLAMA),
    "mistral": ("MistralForCausalLM", _LLAMA),
    "mixtral": ("MixtralForCausalLM", _LLAMA | {"num_local_experts": 2}),
    "qwen2": ("Qwen2ForCausalLM", _LLAMA | {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2ForCausalLM", _LLAMA | {"head_dim": 8}),
    "phi3": ("Phi3ForCausalLM", _LLAMA),
    "gpt2": ("GPT2LMHeadModel", _SIZES | _GPT2),
    "neox": ("GPTNeoXForCausalLM", _SIZES | _BLOCKS),
    "bert": ("BertForSequenceClassification", _SIZES | _BLOCKS),
}


def build(folder: Path, family: str) -> Path:
    """Write `lab/` below `folder`; returns `folder`, where the shapes' names lead to models."""
    import transformers

    name, sizes = FAMILIES[family]
    torch.manual_seed(0)
    cls: Any = getattr(transformers, name)
    lab = folder / "lab"
    cls(cls.config_class(**sizes)).save_pretrained(lab / "stem")
    _tokenizer().save_pretrained(lab / "stem")
    for seed, each in enumerate(("ada", "ben", "cleo"), start=1):
        fine_tune(lab / "stem", lab / each, seed=seed)
    for each in ("ada", "ben"):
        _tokenizer(template=TEMPLATE).save_pretrained(lab / each)
    _grow(fine_tune(lab / "stem", lab / "dora", seed=4))
    if family == "llama":
        _adapter(lab / "stem", lab / "lora")
    return folder


def _tokenizer(more: tuple[str, ...] = (), template: str | None = None) -> Any:
    """Of whole words; a padding token, so that a union has something to agree on."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = (*SPECIAL, *(f"w{index}" for index in range(VOCABULARY - len(SPECIAL))))
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(more),
    )
    made.chat_template = template
    return made


def _grow(folder: Path) -> None:
    """Two more tokens, in every tensor that has a row for each."""
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(9)
    for name, tensor in tensors.items():
        if tensor.shape[0] == VOCABULARY and tensor.dim() == 2:
            rows = torch.randn((len(MORE), *tensor.shape[1:]), generator=generator) * 0.02
            tensors[name] = torch.cat([tensor, rows])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = VOCABULARY + len(MORE)
    (folder / "config.json").write_text(json.dumps(config))
    _tokenizer(MORE).save_pretrained(folder)


def _adapter(base: Path, folder: Path) -> None:
    """An adapter over attention that is not zero."""
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(5)
    config.init_lora_weights = False
    peft.get_peft_model(model, config).save_pretrained(folder)
    shutil.rmtree(folder / "README.md", ignore_errors=True)
