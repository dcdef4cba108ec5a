"""Prompts in a model's chat template, by its tokenizer alone: the model need not be open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_fair.compat.lm_eval import templated
from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation.advice import option
from mergekit_fair.evaluation.model_inputs import load_processor
from mergekit_fair.merging.references import model_parts

_TOKENIZER_CONFIGS = ("tokenizer_config.json", "chat_template.jinja")


class ChatPrompts:
    """What lm-eval asks of a language model that puts prompts into its template.

    Args:
        model: a folder, or a name on the Hub.
        arguments: of lm-eval's model class, which may name another tokenizer.

    Attributes:
        tokenizer: as transformers loads it.
        chat_template_args: what the template is given beside the messages.

    Raises:
        CheckpointError: no tokenizer can be read there.
        ConfigError: it has no chat template.
    """

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        self.tokenizer = load_processor(str(arguments.get("tokenizer") or model), "text")
        require_template(self.tokenizer, model)
        self.chat_template_args = dict(arguments.get("chat_template_args") or {})
        if (thinks := arguments.get("enable_thinking")) is not None:
            self.chat_template_args["enable_thinking"] = thinks

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """As lm-eval's `hf`."""
        return templated(self, chat_history, add_generation_prompt)


def template_of(model: str, base: str) -> str | None:
    """A model's own chat template, as JSON; None without one.

    Args:
        model: a folder, `base+adapter`, or a name on the Hub.
        base: whose it has where it, such as an adapter, has no tokenizer.
    """
    for folder in reversed(model_parts(model)):
        if any((Path(folder) / name).is_file() for name in _TOKENIZER_CONFIGS):
            template = load_processor(folder, "text").chat_template
            return None if template is None else json.dumps(template, sort_keys=True)
    return None if model == base else template_of(base, base)


def require_template(tokenizer: Any, model: str) -> None:
    """A language model has a chat template; what has no tokenizer of its own says so itself.

    Raises:
        ConfigError: it has none.
    """
    if tokenizer is not None and getattr(tokenizer, "chat_template", "") is None:
        raise ConfigError(
            "its tokenizer has no chat template",
            where=f"{model}: {option('apply_chat_template')}",
            fix="leave the option out, or save the template beside the model",
        )


def takes_no_template() -> ConfigError:
    """What a classifier says of one."""
    return ConfigError(
        "a classifier takes the document's text as it is",
        where=option("apply_chat_template"),
        fix="leave it out",
    )
