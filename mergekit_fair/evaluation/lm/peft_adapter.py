"""What a peft adapter brings besides its updates: a classification head, whole weights."""

from __future__ import annotations

from dataclasses import dataclass

from mergekit_fair.errors import CheckpointError


@dataclass(frozen=True)
class Adapter:
    """An adapter's configuration, as far as heads go.

    Attributes:
        name: folder, or name on the Hub.
        revision: of the name.
        is_classifier: it was trained for sequence classification.
        brings_modules: it holds modules whole, so that one of them may be the head.
    """

    name: str
    revision: str | None
    is_classifier: bool
    brings_modules: bool

    def weights(self) -> frozenset[str]:
        """Names, in the base's terms, of the tensors that it holds; reads its file."""
        from peft import load_peft_weights

        found = load_peft_weights(self.name, device="cpu", revision=self.revision)
        return frozenset(key.removeprefix("base_model.").removeprefix("model.") for key in found)


def open_adapter(name: str, revision: str | None = None) -> Adapter:
    """Read an adapter's configuration.

    Raises:
        CheckpointError: there is none.
    """
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"is no adapter that peft can read ({str(error).splitlines()[0]})",
            where=f"peft={name}",
            fix="give the folder of an adapter that was saved with peft",
        ) from None
    task = getattr(config.task_type, "value", config.task_type)
    return Adapter(
        name, revision, task == "SEQ_CLS", bool(getattr(config, "modules_to_save", None))
    )
