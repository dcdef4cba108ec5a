"""What lm-eval knows after `register_models`, and what that costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from lm_eval.api.registry import (
    aggregation_registry,
    get_aggregation,
    get_model,
    model_registry,
)

import mergekit_fair
from mergekit_fair.errors import ConfigError
from mergekit_fair.evaluation import aggregations
from mergekit_fair.evaluation.lm import AGGREGATIONS, MODELS, register_models
from mergekit_fair.evaluation.lm.image_classifier import FairImageClassifier
from mergekit_fair.evaluation.lm.text_classifier import FairClassifier


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """lm-eval's registries without our entries, put back afterwards."""
    register_models()  # and with all of lm-eval's own, which come with its modules' first import
    both = (model_registry, aggregation_registry)
    before = [dict(registry._objs) for registry in both]
    for registry in both:
        for name in (*MODELS, *AGGREGATIONS):
            registry._objs.pop(name, None)
    yield
    for registry, objects in zip(both, before, strict=True):
        registry._objs = objects


def test_models_and_aggregations_are_found_also_after_they_were_used() -> None:
    for _ in range(2):
        register_models()
        mergekit_fair.register()
        assert get_model("fair-classifier") is FairClassifier
        assert get_model("fair-image-classifier") is FairImageClassifier
        assert get_aggregation("fair_dpd") is aggregations.dpd
        assert get_aggregation("fair_eod") is aggregations.eod


def test_entry_points_say_the_same() -> None:
    """A later lm-eval registers them itself, by the entry point."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["project"]["entry-points"]
    assert declared["lm_eval.models"] == MODELS
    assert declared["lm_eval.aggregations"] == AGGREGATIONS
    for group, registry in (("models", model_registry), ("aggregations", aggregation_registry)):
        for name, value in declared[f"lm_eval.{group}"].items():
            registry.register(name, target=EntryPoint(name, value, f"lm_eval.{group}"))
    register_models()
    assert get_model("fair-classifier") is FairClassifier


def test_a_foreign_model_of_the_same_name() -> None:
    model_registry.register("fair-classifier", target="other:Model")
    with pytest.raises(ConfigError) as caught:
        register_models()
    assert str(caught.value) == (
        "fair-classifier: another package has registered something under this name with lm-eval; "
        "got 'other:Model'. Remove that package or import mergekit_fair first."
    )


def test_registration_is_light_and_hides_nothing_of_lm_evals() -> None:
    code = """
import sys
from mergekit_fair.evaluation.lm import register_models
register_models()
heavy = {"torch", "transformers", "mergekit", "pandas"} & set(sys.modules)
assert not heavy, heavy
from lm_eval.api.registry import get_aggregation, get_metric, model_registry
assert {"hf", "vllm", "fair-classifier"} <= set(model_registry)
assert get_aggregation("mean") and get_metric("acc")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
