"""Real peft adapters over tiny checkpoints, without training: seeded A and B, both non-zero.

adapter = make_adapter(family.base, tmp_path / "women", seed=1, targets=["query"])
merged_by_peft(family.base, adapter)      # θ by peft, in float64
theta(family.base, adapter)               # θ by this package
addition(family.base, {"Female": adapter}, lambda_=0.3)   # a recipe as a mapping
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from checkpoints import VOCABULARY, read, tokenizer
from safetensors.torch import load_file, save_file

from mergekit_fair.checkpoints.lora import AdapterReader
from mergekit_fair.checkpoints.reader import open_folder, read_whole
from mergekit_fair.compat.peft import adapter_report
from mergekit_fair.merging.program import MergeSettings
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.to_disk import merge_to_folder

WEIGHTS = {"Female": 1.0, "Male": -0.5, "Other": 2.0}
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
    """An adapter that peft has made and saved; whatever else it trains is moved, too.

    Args:
        base: the model's folder.
        folder: where to write.
        seed: of A, B and the noise on the rest.
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
                noise = torch.randn(tensor.shape)
                if ".lora_magnitude" in name:
                    tensor.mul_(1 + 0.1 * noise)
                elif ".lora_" in name:
                    tensor.copy_(0.1 * noise)
                elif tensor.requires_grad:
                    tensor.add_(0.05 * noise)
        model.save_pretrained(folder)
    return folder


def merged_by_peft(
    base: Path, adapter: Path, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """The tensors of peft's `merge_and_unload`, under their names in files.

    Asserts that peft finds all that it expects in the adapter, and uses all that is there.
    """
    import peft

    with warnings.catch_warnings(), adapter_report() as unused:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*missing adapter keys")
        model = peft.PeftModel.from_pretrained(_loaded(base).to(dtype), adapter).to(dtype)
        merged = model.merge_and_unload()
    assert unused == []
    merged.save_pretrained(adapter / "merged")
    tensors = read(adapter / "merged")
    for file in (adapter / "merged").iterdir():
        file.unlink()
    (adapter / "merged").rmdir()
    return tensors


def theta(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """θ of every tensor in float64, as this package reads it."""
    reader = AdapterReader(open_folder(base), base, adapter)
    found = {name: read_whole(reader, name).double() for name in reader.tensors}
    reader.close()
    return found


def adapters_on(base: Path, folder: Path, architecture: str, **settings: Any) -> dict[str, Path]:
    """Three adapters with heads of their own, one a group."""
    how = {"targets": TARGETS[architecture], "modules_to_save": HEADS[architecture]} | settings
    return {
        name: make_adapter(base, folder / name, seed=index, **how)
        for index, name in enumerate(WEIGHTS)
    }


def addition(
    base: object, adapters: Mapping[str, object], *, lambda_: Any = 0.3, **more: Any
) -> dict[str, Any]:
    """A subgroup_task_addition recipe over adapter folders, with the weights `WEIGHTS`."""
    models = [
        {"model": str(path), "parameters": {"group": name, "weight": WEIGHTS[name]}}
        for name, path in adapters.items()
    ]
    return {
        "merge_method": "subgroup_task_addition",
        "base_model": str(base),
        "models": models,
        "parameters": {"lambda": lambda_},
        "dtype": "float32",
    } | more


def stock(base: object, adapters: Mapping[str, object]) -> dict[str, Any]:
    """The same as `addition` as a recipe of mergekit's task_arithmetic."""
    raw = addition(base, adapters, merge_method="task_arithmetic")
    for model in raw["models"]:
        model["parameters"].pop("group")
    return raw


def merged(raw: dict[str, Any], out: Path, options: Any, **settings: Any) -> Path:
    """Merge a recipe to `out`; `settings` are of `MergeSettings`."""
    merge_to_folder(Recipe.from_mapping(raw, "r.yml"), out, options, MergeSettings(**settings))
    return out


def added(
    base: Path, thetas: Mapping[str, Mapping[str, torch.Tensor]], scale: float = 0.3
) -> dict[str, torch.Tensor]:
    """θ₀ + λ Σ w (θ − θ₀) in float64."""
    start = {name: tensor.double() for name, tensor in read(base).items()}
    return {
        name: tensor + scale * sum(WEIGHTS[g] * (thetas[g][name] - tensor) for g in thetas)
        for name, tensor in start.items()
    }


def is_close(
    found: Mapping[str, torch.Tensor],
    exact: Mapping[str, torch.Tensor],
    rtol: float = 2.0**-23,
    atol: float = 1e-9,
) -> bool:
    """Whether names are the same and numbers close, by default to a rounding to float32."""
    assert found.keys() == exact.keys()
    for name, tensor in exact.items():
        torch.testing.assert_close(
            found[name].double(), tensor.double(), rtol=rtol, atol=atol, msg=lambda m, n=name: n + m
        )
    return True


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


def gpt2(folder: Path) -> Path:
    """A tiny GPT-2 with two classes; its attention's `c_proj` is square."""
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
    hf.GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer(model_input_names=["input_ids", "attention_mask"]).save_pretrained(folder)
    return folder


def tied_llama(folder: Path) -> Path:
    """A tiny language model whose embedding is its output layer, too."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        tie_word_embeddings=True,
    )
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer(model_input_names=["input_ids", "attention_mask"]).save_pretrained(folder)
    return folder


def mixtral(folder: Path) -> Path:
    """A tiny mixture: its experts are tensors of their own in the file, and one in memory."""
    import transformers as hf

    torch.manual_seed(0)
    config = hf.MixtralConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    hf.MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def expert_adapter(base: Path, folder: Path, modules: list[str], *, rank: int = 4) -> Path:
    """An adapter of each expert's own modules, as peft made them before transformers 5."""
    import peft

    generator = torch.Generator().manual_seed(rank)
    tensors = {}
    for name, weight in read(base).items():
        module = name.removesuffix(".weight")
        if module.endswith(tuple(modules)):
            for letter, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
                key = f"base_model.model.{module}.lora_{letter}.weight"
                tensors[key] = 0.1 * torch.randn(shape, generator=generator)
    config = peft.LoraConfig(
        r=rank, lora_alpha=6, target_modules=modules, base_model_name_or_path=str(base)
    )
    config.save_pretrained(folder)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _loaded(base: Path) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    return getattr(transformers, config.architectures[0]).from_pretrained(base)
