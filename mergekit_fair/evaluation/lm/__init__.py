"""lm-eval models that classify; `register_models` makes them known in this process.

Nothing is imported here but errors: lm-eval imports a model's module when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_fair.errors import ConfigError

MODELS = {
    "fair-classifier": "mergekit_fair.evaluation.lm.text_classifier:FairClassifier",
    "fair-image-classifier": "mergekit_fair.evaluation.lm.image_classifier:FairImageClassifier",
}
AGGREGATIONS = {
    "fair_dpd": "mergekit_fair.evaluation.aggregations:dpd",
    "fair_eod": "mergekit_fair.evaluation.aggregations:eod",
}


def register_models() -> None:
    """Register `MODELS` and `AGGREGATIONS` with lm-eval; idempotent, imports no torch.

    Raises:
        ConfigError: another package has registered something else under one of the names.
    """
    # lm-eval lists its own models only where nobody has registered one before.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    _register(model_registry, MODELS)
    register_aggregations()


def register_aggregations() -> None:
    """Register `AGGREGATIONS` with lm-eval; idempotent.

    Raises:
        ConfigError: another package has registered something else under one of the names.
    """
    # The same with its own metrics.
    import lm_eval.api.metrics  # noqa: F401
    from lm_eval.api.registry import aggregation_registry

    _register(aggregation_registry, AGGREGATIONS)


def _register(registry: Any, targets: Mapping[str, str]) -> None:
    present = dict(registry.items())
    for name, target in targets.items():
        if name not in present:
            registry.register(name, target=target)
        elif _target(present[name]) != target:
            raise ConfigError(
                "another package has registered something under this name with lm-eval",
                where=name,
                got=_target(present[name]),
                fix="remove that package or import mergekit_fair first",
            )


def _target(registered: Any) -> str:
    """`module:name` of what a registry holds: that text, an entry point, or the object itself."""
    if isinstance(registered, str):
        return registered
    value = getattr(registered, "value", None)
    if isinstance(value, str):
        return value
    return f"{registered.__module__}:{registered.__qualname__}"
