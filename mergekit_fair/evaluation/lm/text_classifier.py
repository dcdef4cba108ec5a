"""`fair-classifier`: lm-eval runs a sequence classifier on the document's own text."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from transformers import AutoModelForSequenceClassification

from mergekit_fair.checkpoints.adapter_config import is_adapter_folder
from mergekit_fair.errors import CheckpointError, ConfigError, DataError, first_line
from mergekit_fair.evaluation import advice
from mergekit_fair.evaluation.chat_prompts import takes_no_template
from mergekit_fair.evaluation.classifier import require_head, resolve_device
from mergekit_fair.evaluation.linearised import linearised_logits, tangent_point
from mergekit_fair.evaluation.lm.answer_cache import require_key, source_identity
from mergekit_fair.evaluation.lm.checked_hf import CheckedHFLM
from mergekit_fair.evaluation.lm.choices import Choices
from mergekit_fair.evaluation.lm.scoring import (
    Answer,
    PreparedRequests,
    answer,
    group,
    only_choices,
)
from mergekit_fair.evaluation.model_inputs import TextInputs, require_processor
from mergekit_fair.evaluation.truncation import own_length, require_length

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class FairClassifier(CheckedHFLM):
    """`fair-classifier`: log p(class of the choice | the document's text), in float32.

    p is the softmax of the head; of documents with several labels, which take a head with
    `problem_type: multi_label_classification`, the sigmoid of the label's logit.
    The text is `doc[text_field]`, never the prompt, which the classifier was not trained on. Each
    text is run once, truncated to `max_length` tokens (the model's, unless given), in batches of
    like length. NaN: the model has no answer, since its logits are NaN or infinite or the text has
    no tokens.

    Args:
        pretrained: folder, name on the Hub, or a model in memory (then give `tokenizer`).
        text_field: the document's field.
        choice_map: choice → class, see `Choices`; without it a choice must be a label.
        linear_at: a folder θ₀. Logits are then those of the model that is linear in its weights
            around θ₀, as `train` fits it with `method: tangent`.
        options: those of lm-eval's `hf`: peft, delta, dtype, device (`auto`, too), batch_size
            (`auto`, too), max_length, tokenizer, revision, trust_remote_code, parallelize, …;
            what is about prompts and generation changes nothing.

    Raises:
        CheckpointError: no classification head, a head of random numbers, fewer than two classes,
            a head that gives neither classes nor labels, no tokenizer.
        ConfigError: a choice_map or max_length that does not fit the model.
    """

    AUTO_MODEL_CLASS = AutoModelForSequenceClassification

    def __init__(
        self,
        pretrained: Any,
        *,
        text_field: str = "text",
        choice_map: Any = None,
        linear_at: str | None = None,
        **options: Any,
    ) -> None:
        if options.get("device") in (None, "auto"):
            options["device"] = resolve_device("auto")
        super().__init__(pretrained, **options)
        self.options |= {"text_field": text_field, "choice_map": choice_map}
        self._start: dict[str, torch.Tensor] | None = None
        if linear_at is not None:
            self.options["linear_at"] = source_identity(str(linear_at), "main")
            self._start = tangent_point(str(linear_at), self.inner)
            self.inner.set_attn_implementation("eager")
        self.text_field = str(text_field)
        config = self.model.config
        self._choice_map = choice_map
        self.choices = self.choices_of(config, self.where)
        self._accepted = _accepted(self.inner)
        self._set_padding()
        require_length(self.max_length, self.position_limit, self.special_tokens)

    def choices_of(self, config: Any, where: object) -> Choices:
        """Which class each choice is, for a model of this configuration."""
        return Choices.of_model(config, where, self._choice_map)

    def read_config(self, pretrained: str, **options: Any) -> None:
        if is_adapter_folder(pretrained):
            raise CheckpointError(
                "is an adapter, without a model",
                where=pretrained,
                fix="leave --lm out"
                if advice.program() == "eval"
                else f"pass pretrained=BASE,peft={pretrained}",
            )
        try:
            super().read_config(pretrained, **options)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"no model here ({first_line(error)})", where=pretrained
            ) from error

    def choose_backend(self, config: Any, **options: Any) -> None:
        """Between configuration and weights, so a wrong model costs no loading."""
        del config, options
        self.backend = "causal"
        adapter = self.adapter
        if adapter is None or not (adapter.is_classifier or adapter.brings_modules):
            require_head(self.architectures(), "text", self.where)

    def load_tokenizer(self, pretrained: Any, tokenizer: Any, **options: Any) -> None:
        source = tokenizer or pretrained
        if isinstance(source, str):
            folder = Path(source, options.get("subfolder") or "")
            require_processor(folder if folder.is_dir() else source, "text")
        super().load_tokenizer(pretrained, tokenizer, **options)

    def load_weights(self, *args: Any, **options: Any) -> None:
        try:
            super().load_weights(*args, **options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise ConfigError(
                f"an option that neither lm-eval nor the model knows ({error})",
                where="model_args",
                allowed="text_field, choice_map, and those of lm-eval's hf",
            ) from error

    @property
    def special_tokens(self) -> int:
        """Tokens that the tokenizer adds to every text."""
        return int(self.tokenizer.num_special_tokens_to_add())

    @property
    def max_length(self) -> int:
        """Tokens that a text is truncated to."""
        if self.given_max_length:
            return self.given_max_length
        limits = (self.position_limit, own_length(self.tokenizer))
        configured = super().max_length  # XLNet's, which has no limit, says −1
        most = configured if configured > 0 else self._DEFAULT_MAX_LENGTH
        return min([most, *(limit for limit in limits if limit)])

    def _set_padding(self) -> None:
        """The model's own padding token, as it was loaded; the head's side of padding."""
        self._configured_pad = self.inner.config.get_text_config().pad_token_id
        if picks_last_token(self.inner):
            # On the left, a learned table of positions would shift every token.
            self.tokenizer.padding_side = "right"

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """(log p of the choice's class, whether it is the arg max) of every request.

        Raises:
            ConfigError: no such field, an unknown choice, a cache that cannot tell documents apart.
            DataError: a document whose field is not text.
        """
        return self.answer(self.prepare(requests), quiet=disable_tqdm or self.rank != 0)

    def prepare(self, requests: Sequence[Instance]) -> PreparedRequests:
        """Texts as tokens; errors as `loglikelihood`."""
        documents = group(requests, self._text, self._text)
        encoded = TextInputs(documents.contents, self.tokenizer, self.max_length)
        self._choose_padding(encoded)
        return PreparedRequests(requests, documents, encoded)

    def answer(self, prepared: PreparedRequests, *, quiet: bool) -> list[Answer]:
        """What `loglikelihood` gives, with the weights that the model has now."""
        self._choose_padding(prepared.inputs)
        return answer(self, prepared, quiet=quiet)

    def _text(self, request: Instance) -> str:
        where = f"task {request.task_name}"
        doc = request.doc
        if not isinstance(doc, Mapping) or self.text_field not in doc:
            raise ConfigError(
                "its documents lack the field that the text is taken from",
                where=where,
                got=self.text_field,
                allowed=sorted(map(str, doc)) if isinstance(doc, Mapping) else None,
                fix=f"name the field: {advice.model_argument('text_field')}",
            )
        text = doc[self.text_field]
        if not isinstance(text, str):
            raise DataError(
                f"field {self.text_field} of document {request.doc_id} is no text but of type "
                f"{type(text).__name__}",
                where=where,
            )
        if self.cache_hook.dbdict is not None:
            require_key(text.strip() in request.args[0], f"text ({self.text_field})", where)
        return text

    def _choose_padding(self, encoded: Any) -> None:
        config = self.inner.config.get_text_config()
        vocabulary = getattr(config, "vocab_size", None) or len(self.tokenizer)
        pad = padding_id(
            self._configured_pad, self.tokenizer.pad_token_id, vocabulary, encoded.last_tokens()
        )
        self._pad_id = config.pad_token_id = self.inner.config.pad_token_id = pad

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(documents, classes), in the model's dtype."""
        if "attention_mask" in batch:
            is_padding = batch["attention_mask"] == 0
            batch["input_ids"] = batch["input_ids"].masked_fill(is_padding, self._pad_id)
        inputs = {
            name: value.to(self.device)
            for name, value in batch.items()
            if self._accepted is None or name in self._accepted
        }
        dtype = self.mixed_precision_dtype
        with torch.autocast(self.device.type, dtype) if dtype else nullcontext():
            if self._start is None:
                return self.model(**inputs).logits
            weights = dict(self.inner.named_parameters())  # those of this point of a sweep
            return linearised_logits(self.inner, self._start, weights, inputs)

    def apply_chat_template(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: the text is taken as it is.

        Raises:
            ConfigError: always.
        """
        del args, options
        raise takes_no_template()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Refused. Raises ConfigError."""
        del disable_tqdm
        only_choices(requests)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> NoReturn:
        """Refused. Raises ConfigError."""
        del disable_tqdm
        only_choices(requests)


def _accepted(model: Any) -> frozenset[str] | None:
    """Names that `forward` takes; None where it takes anything."""
    names = frozenset(inspect.signature(model.forward).parameters)
    return names if "input_ids" in names else None


def picks_last_token(model: Any) -> bool:
    """Whether the head reads the last token that is not `config.pad_token_id` (Llama, GPT-2, …)."""
    return hasattr(model, "score")


def padding_id(
    configured: int | None, tokenizers: int | None, vocabulary: int, last: Collection[int]
) -> int:
    """The token to pad with: it must not be taken for text, nor text for it.

    Args:
        configured: the model's own, which its head looks for.
        tokenizers: the tokenizer's.
        vocabulary: number of the model's tokens.
        last: the last tokens of all documents. Without padding of its own, a model reads a single
            document's last token whatever it is; in a batch it must read the same.

    Raises:
        CheckpointError: documents end with every token that there is.
    """
    if configured is not None and 0 <= configured < vocabulary:
        return configured
    candidates = range(vocabulary) if tokenizers is None else (tokenizers, *range(vocabulary))
    for token in candidates:
        if 0 <= token < vocabulary and token not in last:
            return token
    raise CheckpointError(
        "has no token to pad with",
        where="config.json",
        fix=f"set pad_token_id, or {advice.option('batch_size')} to 1",
    )
