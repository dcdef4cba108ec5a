"""Tiny real checkpoints of many architectures, one table row each.

Every row is a class of transformers with the sizes that make it small (hidden size 32, two
layers) and the input that its forward pass takes. Weights are random and seeded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoints import fine_tune, read, rewrite

Tensors = dict[str, torch.Tensor]

VOCABULARY = 96
LAMBDA = 0.7
# Long decimals: with 0.8 and −0.5, results of narrow inputs lie exactly between two narrow numbers.
WEIGHTS = {"a": 0.8437, "b": -0.5319}


@dataclass(frozen=True)
class Architecture:
    """One row of the matrix.

    Attributes:
        name: its id in the tests.
        model: class name in transformers.
        sizes: settings of its config.
        takes: `text`, `picture`, `both` (CLIP), `pair` (text for encoder and decoder), `sound` or
            `speech` (a spectrogram for the encoder, text for the decoder).
        tied: the tensor that the checkpoint leaves out because it is another tensor's alias.
    """

    name: str
    model: str
    sizes: dict[str, Any]
    takes: str = "text"
    tied: str = ""

    @property
    def cls(self) -> Any:
        import transformers

        return getattr(transformers, self.model)

    def config(self) -> Any:
        return self.cls.config_class(**self.sizes)


LABELS: dict[str, Any] = {"id2label": {0: "0", 1: "1"}, "label2id": {"0": 0, "1": 1}}
TOKENS: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0}
BLOCKS: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2}
WIDTH: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64}
SEQUENCE = {"max_position_embeddings": 32}
PICTURE: dict[str, Any] = {"image_size": 16, "patch_size": 8}

BERT = WIDTH | BLOCKS | TOKENS | SEQUENCE
DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2} | TOKENS | SEQUENCE
# Relative attention with shared keys and a convolution: all the tensors the family can have.
DEBERTA = BERT | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": 8,
    "type_vocab_size": 2,
}
DEBERTA_V2 = DEBERTA | {"conv_kernel_size": 3, "position_buckets": 4, "norm_rel_ebd": "layer_norm"}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "pad_token_id": 0}
GPT2 |= {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
DECODER = BERT | {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}
HEADED = DECODER | {"head_dim": 8}
GEMMA3 = HEADED | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2} | TOKENS
T5 |= {"decoder_start_token_id": 0, "eos_token_id": 2}
VIT = WIDTH | BLOCKS | PICTURE | LABELS
BEIT = VIT | {"use_relative_position_bias": True, "use_mask_token": True}
DINOV2 = BLOCKS | PICTURE | LABELS | {"hidden_size": 32, "mlp_ratio": 2}
CLIP = {
    "projection_dim": 16,
    "text_config": BERT | {"bos_token_id": 1, "eos_token_id": 2, "projection_dim": 16},
    "vision_config": WIDTH | BLOCKS | PICTURE | {"projection_dim": 16},
}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]} | LABELS
RESNET |= {"layer_type": "basic"}
# The number of experts is spelled in two ways.
MOE = DECODER | {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1}
QWEN3_MOE = MOE | {"head_dim": 8, "moe_intermediate_size": 16}
# Latent attention; one dense layer, and one with two experts and a shared one.
DEEPSEEK = DECODER | {"num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8}
DEEPSEEK |= {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
DEEPSEEK |= {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}
DEEPSEEK |= {"moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1}
SEES = WIDTH | BLOCKS | PICTURE
QWEN_TEXT = DECODER | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
QWEN_TEXT["rope_parameters"] |= {"rope_theta": 10000.0}
QWEN_SEES: dict[str, Any] = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 8}
QWEN_SEES |= {"spatial_merge_size": 1, "temporal_patch_size": 1}
QWEN2_VL = {"text_config": QWEN_TEXT, "vision_config": QWEN_SEES | {"embed_dim": 32}}
QWEN2_VL["vision_config"] |= {"mlp_ratio": 2}
QWEN25_VL = {"text_config": QWEN_TEXT, "vision_config": QWEN_SEES | {"out_hidden_size": 32}}
QWEN25_VL["vision_config"] |= {"intermediate_size": 64, "fullatt_block_indexes": [1]}
LLAMA_TEXT = DECODER | {"model_type": "llama"}
LLAVA = {"text_config": LLAMA_TEXT, "vision_config": SEES | {"model_type": "clip_vision_model"}}
IDEFICS = {"text_config": LLAMA_TEXT, "vision_config": SEES, "scale_factor": 2, "pad_token_id": 0}
GEMMA3_SEES = {"text_config": GEMMA3, "vision_config": SEES, "mm_tokens_per_image": 4}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64} | SEQUENCE
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}
BART |= {"decoder_start_token_id": 2, "eos_token_id": 2, "bos_token_id": 1} | TOKENS
WHISPER = BART | {"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 32}
ELECTRA = BERT | LABELS | {"embedding_size": 16}
MODERNBERT = BERT | LABELS | {"local_attention": 8, "bos_token_id": 1, "eos_token_id": 2}
MODERNBERT |= {"cls_token_id": 1, "sep_token_id": 2}
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 2} | TOKENS | ENDS
MAMBA = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2} | TOKENS | ENDS
WAV2VEC2 = WIDTH | BLOCKS | LABELS | {"conv_dim": [16, 16], "conv_kernel": [4, 3]}
WAV2VEC2 |= {"conv_stride": [2, 2], "num_conv_pos_embeddings": 4, "classifier_proj_size": 16}
WAV2VEC2 |= {"num_conv_pos_embedding_groups": 2}
SIGLIP = {"text_config": BERT | ENDS | {"projection_size": 32}, "vision_config": SEES}
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2} | LABELS
SWIN |= {"image_size": 16, "patch_size": 4}

ARCHITECTURES = (
    Architecture("bert-bare", "BertModel", BERT),
    Architecture("bert", "BertForSequenceClassification", BERT | LABELS),
    Architecture("bert-qa", "BertForQuestionAnswering", BERT),
    Architecture("distilbert", "DistilBertForSequenceClassification", DISTILBERT | LABELS),
    Architecture("roberta", "RobertaForSequenceClassification", BERT | LABELS),
    Architecture("deberta", "DebertaForSequenceClassification", DEBERTA | LABELS),
    Architecture("deberta-v2", "DebertaV2ForSequenceClassification", DEBERTA_V2 | LABELS),
    Architecture("gpt2-lm", "GPT2LMHeadModel", GPT2, tied="lm_head.weight"),
    Architecture("gpt2", "GPT2ForSequenceClassification", GPT2 | LABELS),
    Architecture("llama-lm", "LlamaForCausalLM", DECODER),
    Architecture("llama", "LlamaForSequenceClassification", DECODER | LABELS),
    Architecture(
        "qwen2-lm-tied",
        "Qwen2ForCausalLM",
        DECODER | {"tie_word_embeddings": True},
        tied="lm_head.weight",
    ),
    Architecture("qwen2-lm", "Qwen2ForCausalLM", DECODER | {"tie_word_embeddings": False}),
    Architecture("qwen2", "Qwen2ForSequenceClassification", DECODER | LABELS),
    Architecture("qwen3-lm", "Qwen3ForCausalLM", HEADED),
    Architecture("gemma-lm", "GemmaForCausalLM", HEADED, tied="lm_head.weight"),
    Architecture("gemma3-lm", "Gemma3ForCausalLM", GEMMA3, tied="lm_head.weight"),
    Architecture("t5-lm", "T5ForConditionalGeneration", T5, takes="pair", tied="lm_head.weight"),
    Architecture("t5", "T5ForSequenceClassification", T5 | LABELS),
    Architecture("vit", "ViTForImageClassification", VIT, takes="picture"),
    Architecture("beit", "BeitForImageClassification", BEIT, takes="picture"),
    Architecture("dinov2", "Dinov2ForImageClassification", DINOV2, takes="picture"),
    Architecture("clip", "CLIPModel", CLIP, takes="both"),
    Architecture("resnet", "ResNetForImageClassification", RESNET, takes="picture"),
    Architecture("mixtral-lm", "MixtralForCausalLM", MOE),
    Architecture("qwen3-moe-lm", "Qwen3MoeForCausalLM", QWEN3_MOE),
    Architecture(
        "qwen3-moe-lm-mixed", "Qwen3MoeForCausalLM", QWEN3_MOE | {"decoder_sparse_step": 2}
    ),
    Architecture("olmoe-lm", "OlmoeForCausalLM", MOE),
    Architecture("deepseek-v3-lm", "DeepseekV3ForCausalLM", DEEPSEEK),
    Architecture("qwen2-vl", "Qwen2VLForConditionalGeneration", QWEN2_VL),
    Architecture("qwen2.5-vl", "Qwen2_5_VLForConditionalGeneration", QWEN25_VL),
    Architecture("llava", "LlavaForConditionalGeneration", LLAVA),
    Architecture("idefics3", "Idefics3ForConditionalGeneration", IDEFICS),
    Architecture("smolvlm", "SmolVLMForConditionalGeneration", IDEFICS),
    Architecture("gemma3", "Gemma3ForConditionalGeneration", GEMMA3_SEES, tied="lm_head.weight"),
    Architecture(
        "bart-lm", "BartForConditionalGeneration", BART, takes="pair", tied="lm_head.weight"
    ),
    Architecture("bart", "BartForSequenceClassification", BART | LABELS),
    Architecture("mt5-lm", "MT5ForConditionalGeneration", T5, takes="pair", tied="lm_head.weight"),
    Architecture("marian-lm", "MarianMTModel", BART, takes="pair", tied="lm_head.weight"),
    Architecture("neox-lm", "GPTNeoXForCausalLM", BERT | ENDS),
    Architecture("modernbert", "ModernBertForSequenceClassification", MODERNBERT),
    Architecture("xlm-r", "XLMRobertaForSequenceClassification", BERT | LABELS),
    Architecture("electra", "ElectraForSequenceClassification", ELECTRA),
    Architecture("albert", "AlbertForSequenceClassification", ELECTRA),
    Architecture("mpnet", "MPNetForSequenceClassification", BERT | LABELS),
    Architecture("roberta-lm", "RobertaForMaskedLM", BERT, tied="lm_head.decoder.weight"),
    Architecture("falcon-lm", "FalconForCausalLM", BERT | ENDS, tied="lm_head.weight"),
    Architecture("bloom-lm", "BloomForCausalLM", BLOOM, tied="lm_head.weight"),
    Architecture("mamba-lm", "MambaForCausalLM", MAMBA, tied="lm_head.weight"),
    Architecture("phi3-lm", "Phi3ForCausalLM", DECODER),
    Architecture("gemma2-lm", "Gemma2ForCausalLM", HEADED, tied="lm_head.weight"),
    Architecture("wav2vec2", "Wav2Vec2ForSequenceClassification", WAV2VEC2, takes="sound"),
    Architecture(
        "whisper",
        "WhisperForConditionalGeneration",
        WHISPER,
        takes="speech",
        tied="proj_out.weight",
    ),
    Architecture("siglip", "SiglipModel", SIGLIP, takes="both"),
    Architecture("swin", "SwinForImageClassification", SWIN, takes="picture"),
)
BY_NAME = {row.name: row for row in ARCHITECTURES}


@dataclass(frozen=True)
class Trio:
    """The folders of a base and of the groups `a` and `b` fine-tuned from it."""

    base: Path
    a: Path
    b: Path

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        return self.base, self.a, self.b

    @property
    def tensors(self) -> tuple[Tensors, Tensors, Tensors]:
        return read(self.base), read(self.a), read(self.b)

    def recipe(self, **settings: Any) -> dict[str, Any]:
        """θ₀ + λ (w_a Δ_a + w_b Δ_b) as a mapping; `settings` are `dtype` and `out_dtype`."""
        models = [
            {"model": str(getattr(self, group)), "parameters": {"group": group, "weight": weight}}
            for group, weight in WEIGHTS.items()
        ]
        return {
            "merge_method": "subgroup_task_addition",
            "base_model": str(self.base),
            "models": models,
            "parameters": {"lambda": LAMBDA, "normalize": "sum"},
            **settings,
        }


def write_trio(folder: Path, row: Architecture, dtypes: tuple[torch.dtype, ...]) -> Trio:
    """Write `base`, `a` and `b` below `folder`, in the three dtypes given."""
    torch.manual_seed(0)
    model = row.cls(row.config())
    if any("running_var" in name for name, _ in model.named_buffers()):
        for _ in range(3):  # in training mode: statistics move, counters count
            model(**inputs(row))
    base = folder / "base"
    model.save_pretrained(base)
    trio = Trio(
        base,
        fine_tune(base, folder / "a", seed=1),
        fine_tune(base, folder / "b", seed=2, size=0.03),
    )
    for path, dtype, steps in zip((trio.base, trio.a, trio.b), dtypes, (0, 5, 9), strict=True):
        rewrite(path, lambda tensors, dtype=dtype, steps=steps: _train(tensors, dtype, steps))
        config = json.loads((path / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (path / "config.json").write_text(json.dumps(config))
    return trio


def _train(tensors: Tensors, dtype: torch.dtype, steps: int) -> None:
    """What training does to a batch norm's counters; floating tensors become `dtype`."""
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = tensor + steps
        elif tensor.is_floating_point():
            tensors[name] = tensor.to(dtype)
        if name.endswith("running_var"):
            assert bool((tensor > 0).all())


def inputs(row: Architecture) -> Tensors:
    """The same two examples at every call."""
    tokens = torch.arange(3, 15).reshape(2, 6)
    tokens[:, -1] = 2  # end of text
    picture = torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin_().reshape(2, 3, 16, 16)
    spectrogram = torch.linspace(-1, 1, 2 * 8 * 16).sin_().reshape(2, 8, 16)
    return {
        "text": {"input_ids": tokens},
        "picture": {"pixel_values": picture},
        "both": {"input_ids": tokens, "pixel_values": picture},
        "pair": {"input_ids": tokens, "decoder_input_ids": tokens},
        "sound": {"input_values": torch.linspace(-1, 1, 2 * 200).sin_().reshape(2, 200)},
        "speech": {"input_features": spectrogram, "decoder_input_ids": tokens},
    }[row.takes]


def loaded(folder: Path, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """The model of the class that config.json names, and transformers' report on its keys."""
    import transformers

    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **settings)
