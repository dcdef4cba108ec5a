"""Tiny real checkpoints: a base, a fine-tune and subgroup models of one architecture.

`tiny_family(folder, "bert")` writes what `mergekit-fair train` writes, in under a second and
without training: every fine-tune is the base plus small seeded noise in every tensor.

    family = tiny_family(tmp_path, "bert")
    family.base, family.fft, family.groups["Female"]      # folders that from_pretrained loads
    family.addition(lambda_=0.5)                          # a recipe as a mapping
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

ARCHITECTURES = ("bert", "distilbert", "vit", "llama")
GROUPS = ("Female", "Male", "Other")
WORDS = (
    *("the", "a", "and", "is", "as", "in", "not", "good", "bad", "old", "young", "man", "woman"),
    *("works", "nurse", "clerk", "farmer", "manager", "married", "single", "degree", "hours"),
    *("week", "private", "public", "born", "here", "there", "one", "two", "three", "##s", "##ed"),
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = tuple(
    dict.fromkeys((*SPECIAL, *LETTERS, *".,0123456789", *(f"##{x}" for x in LETTERS), *WORDS))
)


@dataclass(frozen=True)
class Family:
    """The folders of one family.

    Attributes:
        base: θ₀ with its head.
        fft: fine-tuned on everybody.
        groups: subgroup → folder.
    """

    base: Path
    fft: Path
    groups: dict[str, Path]

    def addition(self, **parameters: Any) -> dict[str, Any]:
        """A subgroup_task_addition recipe in float32; `lambda_` stands for `lambda`."""
        models = [
            {"model": str(path), "parameters": {"group": name}}
            for name, path in self.groups.items()
        ]
        return {
            "merge_method": "subgroup_task_addition",
            "base_model": str(self.base),
            "models": models,
            "parameters": _named(parameters),
            "dtype": "float32",
        }

    def injection(self, **parameters: Any) -> dict[str, Any]:
        """A worst_group_injection recipe into `fft`; needs `worst`."""
        models: list[dict[str, Any]] = [{"model": str(self.fft), "parameters": {"role": "target"}}]
        models += [
            {"model": str(path), "parameters": {"role": "candidate", "group": name}}
            for name, path in self.groups.items()
        ]
        return {
            "merge_method": "worst_group_injection",
            "base_model": str(self.base),
            "models": models,
            "parameters": _named(parameters),
            "dtype": "float32",
        }


def _named(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"lambda" if name == "lambda_" else name: value for name, value in parameters.items()}


def tiny_family(folder: Path, architecture: str) -> Family:
    """Write `base`, `fft` and `groups/<group>` for three groups below `folder`.

    Args:
        folder: made if needed.
        architecture: `bert`, `distilbert`, `llama` (text, two classes, with a WordPiece tokenizer
            of about 100 tokens) or `vit` (16 × 16 pictures, with an image processor). Hidden size
            32, two layers.
    """
    torch.manual_seed(0)
    base = folder / "base"
    model = _classifier(architecture)
    model.save_pretrained(base)
    _processor(architecture).save_pretrained(base)
    fft = fine_tune(base, folder / "fft", seed=1)
    groups = {
        name: fine_tune(base, folder / "groups" / name, seed=2 + index, size=0.02 * (1 + index))
        for index, name in enumerate(GROUPS)
    }
    return Family(base, fft, groups)


def fine_tune(base: Path, folder: Path, *, seed: int, size: float = 0.02) -> Path:
    """A copy of `base` with Gaussian noise of standard deviation `size` in every weight."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + (size * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in read(base).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder's files of weights."""
    files = sorted(folder.glob("model*.safetensors"))
    assert files, folder
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Let `change` edit the tensors of a folder in place, and save them."""
    tensors = read(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tokenizer(**settings: Any) -> Any:
    """A BERT tokenizer over letters and a few dozen words."""
    from transformers import BertTokenizerFast

    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    return BertTokenizerFast(vocab=vocabulary, **settings)


def _classifier(architecture: str) -> Any:
    import transformers as hf

    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    text: dict[str, Any] = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 64}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    labels: dict[str, Any] = {"id2label": {0: "0", 1: "1"}, "label2id": {"0": 0, "1": 1}}
    if architecture == "bert":
        return hf.BertForSequenceClassification(hf.BertConfig(**sizes, **text, **labels))
    if architecture == "distilbert":
        config = hf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **text, **labels)
        return hf.DistilBertForSequenceClassification(config)
    if architecture == "llama":
        config = hf.LlamaConfig(num_key_value_heads=2, **sizes, **text, **labels)
        return hf.LlamaForSequenceClassification(config)
    if architecture == "vit":
        config = hf.ViTConfig(image_size=16, patch_size=8, **sizes, **labels)
        return hf.ViTForImageClassification(config)
    raise ValueError(f"{architecture!r} is none of {ARCHITECTURES}")


def _processor(architecture: str) -> Any:
    if architecture == "bert":
        return tokenizer()
    if architecture != "vit":
        return tokenizer(model_input_names=["input_ids", "attention_mask"])
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 16, "width": 16})
