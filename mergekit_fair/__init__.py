"""Fairness-aware model merging for mergekit.

`register()` makes the merge methods known to mergekit, and the classifiers and aggregations to
lm-eval, in this process; every command of `mergekit-fair` does so by itself. Importing this package
imports neither torch nor transformers.
"""

from __future__ import annotations

__version__ = "0.2.0.dev0"

__all__ = ["__version__", "register"]


def register() -> None:
    """Register the merge methods with mergekit, and models and aggregations with lm-eval.

    Calling it again changes nothing.

    Raises:
        RecipeError: another package has registered a method under one of our names.
        ConfigError: the same for a model or an aggregation.

    Example:
        >>> import mergekit_fair
        >>> mergekit_fair.register()
        >>> from mergekit.merge_methods import get
        >>> get("subgroup_task_addition").spec.pretty_name
        'Subgroup Task Addition'
    """
    from mergekit_fair.evaluation.lm import register_models
    from mergekit_fair.merging.gate import register_gate
    from mergekit_fair.merging.methods.registry import register_methods

    register_methods()
    register_gate()
    register_models()
