"""A recipe's configuration: mergekit's fields, defaults and order, read without mergekit.

Importing mergekit's own classes imports peft and most of transformers. These have the same names,
so that what pydantic says of a wrong value is the same; a test compares every field and what is
made of recipes. `for_mergekit` in `compat.mergekit` gives mergekit's engine its own.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

_FROZEN = ConfigDict(frozen=True)

ScalarParameter = bool | int | float | str
ScalarOrGradient = ScalarParameter | list[ScalarParameter]


class ConditionalParameter(BaseModel):
    """A setting of the tensors whose name holds `filter`."""

    value: ScalarOrGradient
    filter: str | None = None


ParameterSetting = ConditionalParameter | list[ConditionalParameter] | ScalarOrGradient


class ModelPath(BaseModel):
    """A folder, or a name of the Hub with its revision."""

    model_config = _FROZEN
    path: str
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        path, *revision = value.split("@")
        if len(revision) > 1:
            raise RuntimeError(f"Invalid model path - multiple @: {value}")
        return {"path": path, "revision": revision[0]} if revision else {"path": path}

    def __str__(self) -> str:
        return f"{self.path}@{self.revision}" if self.revision else self.path


class ModelReference(BaseModel):
    """A model, maybe with an adapter on it."""

    model_config = _FROZEN
    model: ModelPath
    lora: ModelPath | None = None
    override_architecture: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.split("+")
        if len(parts) > 2:
            raise RuntimeError(f"Can't parse {value}")
        return dict(zip(("model", "lora"), parts, strict=False))

    @classmethod
    def parse(cls, value: str) -> Self:
        """Of the text that `str` gives."""
        return cls.model_validate(value)

    def __str__(self) -> str:
        return f"{self.model}+{self.lora}" if self.lora else str(self.model)


class InputSliceDefinition(BaseModel):
    """Layers of a model."""

    model: ModelReference
    layer_range: tuple[int, int]
    parameters: dict[str, ParameterSetting] | None = None


class InputModelDefinition(BaseModel):
    """A whole model."""

    model: ModelReference
    parameters: dict[str, ParameterSetting] | None = None


class OutputSliceDefinition(BaseModel):
    """Layers that are merged with each other."""

    sources: list[InputSliceDefinition]
    base_model: ModelReference | None = None
    residual_weight: float | None = None
    parameters: dict[str, ParameterSetting] | None = None


class OutputModuleDefinition(BaseModel):
    """One module of several."""

    slices: list[OutputSliceDefinition] | None = None
    models: list[InputModelDefinition] | None = None
    parameters: dict[str, ParameterSetting] | None = None

    @model_validator(mode="after")
    def _slices_or_models(self) -> Self:
        if bool(self.slices) == bool(self.models):
            raise RuntimeError("Must specify either output slices or models to merge")
        return self


class ModelTokenEmbedding(BaseModel):
    """The embedding of a token of a model."""

    model_config = _FROZEN
    kind: Literal["model_token"]
    model: ModelReference
    token_id: int | None = None
    token: str | None = None

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token_id is None and self.token is None:
            raise ValueError("token_id or token must be specified")
        if self.token_id is not None and self.token is not None:
            raise ValueError("only one of token_id or token may be specified")
        return self


class ZeroEmbedding(BaseModel):
    """An embedding of zeros."""

    model_config = _FROZEN
    kind: Literal["zero"]


class TokenEmbeddingConfig(BaseModel):
    """Where a token's embedding comes from."""

    model_config = _FROZEN
    source: ModelTokenEmbedding | ZeroEmbedding | ModelReference | None = None
    force: bool = False


class TokenizerConfig(BaseModel):
    """A tokenizer to build."""

    model_config = _FROZEN
    source: ModelReference | Literal["union"] | Literal["base"] = "union"
    tokens: dict[str, TokenEmbeddingConfig] | None = None
    pad_to_multiple_of: int | None = None


class MergeConfiguration(BaseModel):
    """A recipe."""

    modules: dict[str, OutputModuleDefinition] | None = None
    slices: list[OutputSliceDefinition] | None = None
    models: list[InputModelDefinition] | None = None

    merge_method: str
    base_model: ModelReference | None = None
    dtype: str | None = None
    tokenizer_source: Literal["union"] | Literal["base"] | ModelReference | None = None
    tokenizer: TokenizerConfig | None = None
    chat_template: str | None = None
    out_dtype: str | None = None
    parameters: dict[str, ParameterSetting] | None = None

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> Self:
        if sum(map(bool, (self.modules, self.slices, self.models))) != 1:
            raise RuntimeError("Exactly one of 'models', 'slices', or 'modules' must be present")
        return self

    @model_validator(mode="after")
    def _one_tokenizer(self) -> Self:
        if self.tokenizer_source and self.tokenizer:
            raise RuntimeError("Cannot specify both tokenizer_source and tokenizer")
        return self

    def referenced_models(self) -> list[ModelReference]:
        """Every model once, in recipe order, the base first."""
        return models_in(self)


def models_in(config: Any) -> list[Any]:
    """The models that a configuration names, ours or mergekit's: each once, the base first.

    mergekit collects them in a set, so that cards and inferred architectures vary with
    PYTHONHASHSEED.
    """
    models = [config.base_model] if config.base_model else []
    models += [item.model for item in config.models or ()]
    for part in config.slices or ():
        models += [source.model for source in part.sources]
    for module in (config.modules or {}).values():
        models += [item.model for item in module.models or ()]
        for part in module.slices or ():
            models += [source.model for source in part.sources]
    return list(dict.fromkeys(models))
