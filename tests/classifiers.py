"""Tiny classifiers for lm-eval, lm-eval's requests made by hand, and a plain transformers loop.

lm = FairClassifier(write_text(tmp_path / "m", "bert"), device="cpu")
lm.loglikelihood(requests(TEXTS))             # one request for each text and choice
plain_log_probs(tmp_path / "m", TEXTS)        # (texts, classes), one forward pass a text
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from checkpoints import VOCABULARY, WORDS, tokenizer

CHOICES = (" no", " yes")
LABELS = {"no": 0, "yes": 1}

_draw = random.Random(0)
# Different lengths, some over the models' 64 positions, in no order; equal ones; an unknown end.
TEXTS = (
    *(" ".join(_draw.choices(WORDS[:24], k=k)) for k in (5, 1, 12, 90, 3, 30, 7, 70, 2, 5, 18)),
    *("the old man", "the old man", "good ☃"),
)


def write_text(
    folder: Path, architecture: str, labels: dict[str, int] | None = None, **changes: Any
) -> Path:
    """A classifier of `bert`, `roberta`, `gpt2`, `llama` or `qwen2` with weights far from zero.

    Args:
        folder: made if needed.
        architecture: Llama and its like get the tokenizer of the others, BERT's.
        labels: label2id.
        changes: of the configuration; None deletes an entry.
    """
    model = text_model(architecture, labels, **changes)
    model.save_pretrained(folder)
    _tokenizer(architecture).save_pretrained(folder)
    return folder


def text_model(
    architecture: str,
    labels: dict[str, int] | None = None,
    kind: str = "ForSequenceClassification",
    **changes: Any,
) -> Any:
    """The model itself, also as another `kind`: `ForCausalLM`, `Model`."""
    import transformers as hf

    labels = labels or LABELS
    name = {"bert": "Bert", "roberta": "Roberta", "gpt2": "GPT2", "llama": "Llama"}.get(
        architecture, "Qwen2"
    )
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 64}
    if name == "GPT2":
        sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    if name in ("Llama", "Qwen2"):
        sizes["num_key_value_heads"] = 2
    text = {"vocab_size": len(VOCABULARY), "bos_token_id": 2, "eos_token_id": 3}
    names = {"label2id": labels, "id2label": {index: name for name, index in labels.items()}}
    settings = {**sizes, **text, "pad_token_id": 0, "initializer_range": 0.4, **names, **changes}
    torch.manual_seed(0)
    return getattr(hf, name + kind)(getattr(hf, f"{name}Config")(**settings))


def write_causal(folder: Path, architecture: str = "llama", **changes: Any) -> Path:
    """A language model with a tokenizer that has the ends of texts that lm-eval wants."""
    text_model(architecture, kind="ForCausalLM", **changes).save_pretrained(folder)
    lm_tokenizer().save_pretrained(folder)
    return folder


def lm_tokenizer() -> Any:
    names = ["input_ids", "attention_mask"]
    return tokenizer(model_input_names=names, bos_token="[CLS]", eos_token="[SEP]")


def _tokenizer(architecture: str) -> Any:
    if architecture == "bert":
        return tokenizer()
    return tokenizer(model_input_names=["input_ids", "attention_mask"])


def requests(
    texts: Sequence[Any], choices: Sequence[str] = CHOICES, field: str = "text", **more: Any
) -> list[Any]:
    """lm-eval's instances of a multiple-choice task whose prompt is not the text."""
    from lm_eval.api.instance import Instance

    return [
        Instance(
            request_type="loglikelihood",
            doc={field: text, **more},
            arguments=("Is it?", choice),
            idx=index,
            metadata=("a_task", number, 1),
        )
        for number, text in enumerate(texts)
        for index, choice in enumerate(choices)
    ]


def with_prompt(made: Sequence[Any], prompt: Callable[[Any], str]) -> list[Any]:
    """The same instances with a prompt of their own."""
    for request in made:
        request.arguments = (prompt(request.doc), *request.arguments[1:])
    return list(made)


def plain_log_probs(folder: Path, texts: Sequence[str], max_length: int = 64) -> torch.Tensor:
    """(texts, classes) by transformers alone, a text at a time, so without padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model_log_probs(model, AutoTokenizer.from_pretrained(folder), texts, max_length)


def model_log_probs(
    model: Any, encode: Any, texts: Sequence[str], max_length: int = 64
) -> torch.Tensor:
    rows = []
    with torch.no_grad():
        for text in texts:
            batch = encode(text, return_tensors="pt", truncation=True, max_length=max_length)
            rows.append(torch.log_softmax(model(**batch).logits[0].float(), dim=-1))
    return torch.stack(rows)


def as_tensor(answers: Sequence[tuple[float, bool]], classes: int = 2) -> torch.Tensor:
    """(documents, classes) of the answers to `requests`, whose choices are the classes in order."""
    return torch.tensor([value for value, _ in answers]).reshape(-1, classes)
