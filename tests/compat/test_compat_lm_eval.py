"""Private names of lm-eval: each test says what breaks when the name moves."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import TEXTS, requests, write_causal

from mergekit_fair.compat import lm_eval as private
from mergekit_fair.errors import ConfigError


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lm_eval.models.huggingface import HFLM

    folder = write_causal(tmp_path_factory.mktemp("causal"))
    return HFLM(str(folder), device="cpu", batch_size=4)


def test_prompts_are_put_into_a_template_without_a_model(causal: Any) -> None:
    """`HFLM.apply_chat_template`: sweeps could not say what they ask before a model is open."""
    from types import SimpleNamespace

    history = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "no"}]
    template = "{% for m in messages %}[{{ m['role'] }}{{ x }}] {{ m['content'] }}\n{% endfor %}"
    causal.tokenizer.chat_template = template
    for is_open in (True, False):
        like = SimpleNamespace(tokenizer=causal.tokenizer, chat_template_args={"x": 7})
        found = private.templated(like, history, is_open)
        assert found.startswith("[user7] Is it?\n[assistant7] no")
        causal.chat_template_args = {"x": 7}
        assert found == causal.apply_chat_template(history, is_open)


def test_a_registered_model_is_replaced() -> None:
    """`_objs`: stock `lm_eval --model hf` would again load classifiers with a random head."""
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import get_model, model_registry

    with pytest.raises(ValueError, match="already registered"):
        model_registry.register("dummy", target=int)  # the public way
    before = model_registry._objs["dummy"]
    try:
        private.replace_models({"dummy": str})
        assert model_registry._objs["dummy"] is str
    finally:
        model_registry._objs["dummy"] = before
    assert get_model("dummy").__name__ == "DummyLM"


def test_a_frozen_registry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import MappingProxyType

    from lm_eval.api.registry import model_registry

    monkeypatch.setattr(model_registry, "_objs", MappingProxyType({}))
    with pytest.raises(ConfigError) as caught:
        private.replace_models({"dummy": str})
    assert caught.value.where == "guard_stock_models"


def test_a_task_file_is_read_without_its_data(tmp_path: Path) -> None:
    """`load_yaml`: wrapped tasks (ToxiGen, Winogender, CrowS-Pairs) could not be built."""
    (tmp_path / "base").write_text("output_type: multiple_choice\nfewshot_split: train\n")
    (tmp_path / "task.yaml").write_text(
        "include: base\nfewshot_split: test\nprocess_results: !function math.sqrt\n"
    )
    loaded = private.load_task_yaml(tmp_path / "task.yaml")
    assert (loaded["output_type"], loaded["fewshot_split"]) == ("multiple_choice", "test")
    assert loaded["process_results"](4) == 2


def test_a_built_task_gets_a_metric(tmp_path: Path) -> None:
    """`_aggregation_list`, `_higher_is_better`: wrapped tasks would have no fairness metrics."""
    task = _task(tmp_path)
    private.add_metric(task, "spread", max, higher_is_better=False)
    private.add_metric(task, "middle", "mean", higher_is_better=None)
    assert task.aggregation()["spread"]([1, 3]) == 3
    assert task.aggregation()["middle"]([1, 3]) == 2
    assert (task.higher_is_better()["spread"], task.higher_is_better()["middle"]) == (False, None)


def test_values_are_aggregated_as_lm_eval_does(tmp_path: Path) -> None:
    """`_process_results`, `_to_eval_results`: `eval` could not write lm_eval.json."""
    task = _task(tmp_path)
    values = {"plain": {("acc", "none"): [1, 0, 1, 1]}}
    results = private.aggregated({"plain": task}, values, {})
    assert results["results"]["plain"]["acc,none"] == 0.75
    assert results["n-samples"]["plain"]["effective"] == 4
    assert {"configs", "versions", "higher_is_better"} <= set(results)


def test_requests_are_tokenised_once_and_scored_with_the_weights_of_now(causal: Any) -> None:
    """`_loglikelihood_tokens`: every point of a sweep would tokenise again."""
    assert private.scores_tokens(causal)
    made = requests(TEXTS[:4])
    pairs = private.token_pairs(causal, made)
    assert len(pairs) == 8
    expected = causal.loglikelihood(made, disable_tqdm=True)
    assert private.loglikelihood_of_tokens(causal, pairs) == expected
    assert "_loglikelihood_tokens" not in vars(causal)
    with torch.no_grad():
        weight = next(causal.model.parameters())
        before = weight.clone()
        weight.mul_(2)
    assert private.loglikelihood_of_tokens(causal, pairs) != expected
    with torch.no_grad():
        weight.copy_(before)


def test_another_torch_model_is_put_in(causal: Any) -> None:
    """`_model`: a sweep would measure the base's weights at every point of another dtype."""
    before = causal.model
    other = torch.nn.Linear(1, 1)
    private.set_torch_model(causal, other)
    try:
        assert causal.model is other
    finally:
        private.set_torch_model(causal, before)


def test_the_steps_of_loading_are_called_in_order(tmp_path: Path) -> None:
    """`_get_config`, `_get_backend`, `_create_tokenizer`, `_create_model`: wrong models would be
    loaded before they are refused, and random heads not be seen."""
    from mergekit_fair.compat.lm_eval_hf import HookedHFLM, commit_of

    called: list[str] = []

    class Listening(HookedHFLM):
        pass

    def listen(name: str) -> Any:
        def step(self: Any, *args: Any, **options: Any) -> None:
            called.append(name)
            getattr(HookedHFLM, name)(self, *args, **options)

        return step

    steps = ["read_config", "choose_backend", "load_tokenizer", "load_weights"]
    for name in steps:
        setattr(Listening, name, listen(name))
    folder = write_causal(tmp_path / "causal")
    lm = Listening(str(folder), device="cpu", max_length=16)
    assert called == steps
    assert lm.given_max_length == 16  # `_max_length`
    assert Listening(str(folder), device="cpu").given_max_length is None
    assert commit_of(lm.config) is None


def test_transformers_keeps_the_commit_of_a_hub_model() -> None:
    """`_commit_hash`: a cache of answers would not notice another revision of a Hub model."""
    from transformers import PretrainedConfig

    assert "_commit_hash" in inspect.getsource(PretrainedConfig)


def _task(folder: Path) -> Any:
    from lm_eval.api.task import ConfigurableTask

    (folder / "rows.csv").write_text("text,label\na,0\nb,1\n")
    return ConfigurableTask(
        config={
            "task": "plain",
            "dataset_path": "csv",
            "dataset_kwargs": {"data_files": {"validation": str(folder / "rows.csv")}},
            "output_type": "multiple_choice",
            "validation_split": "validation",
            "doc_to_text": "{{text}}",
            "doc_to_target": "label",
            "doc_to_choice": ["no", "yes"],
            "metric_list": [{"metric": "acc"}],
        }
    )


def test_kept_requests_are_found_by_the_tokenizers_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`build_all_requests`: what `FairTask` puts into it is part of the key, and nothing else."""
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path / "kept"))
    task = _task(tmp_path)
    task.set_config("num_fewshot", 0)
    for name in ("one", "two", "one"):
        task.build_all_requests(cache_requests=True, tokenizer_name=name)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert all("one" not in str(instance.args) for instance in task.instances)


def test_a_configuration_as_text(tmp_path: Path) -> None:
    """`serialize_function`, `to_dict`: the same in another process, functions by their source."""
    from mergekit_fair.evaluation.fair_task import FairTask

    task = _task(tmp_path)
    task.config.fewshot_config.doc_to_text = FairTask.doc_to_text
    text = json.dumps(private.serialized(task))
    assert "def doc_to_text" in text
    assert " at 0x" not in text
