"""Private names of lm-eval's registry, tasks, results and scoring (0.4.13).

Nothing of lm-eval is imported with this module: it takes seconds.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.errors import ConfigError

TokenPairs = list[Any]  # ((context, continuation), context's ids, continuation's ids)

# `config_source` of a task whose file lm-eval has not kept.
INLINE = "inline"


def replace_models(models: Mapping[str, type]) -> None:
    """Put classes in the place of those that lm-eval has registered under these names.

    `Registry.register` refuses a name that is taken, hence the private mapping `_objs`.

    Raises:
        ConfigError: the registry is frozen.
    """
    from lm_eval.api.registry import model_registry

    registered = model_registry._objs
    if not isinstance(registered, dict):
        raise ConfigError(
            "lm-eval's registry of models is frozen",
            where="guard_stock_models",
            fix="call it before freeze_all()",
        )
    registered.update(models)


def load_task_yaml(path: Path) -> dict[str, Any]:
    """A task's YAML file with its `include` and `!function` resolved; no task is built.

    `TaskManager` builds the task, and downloads its data, in the same call.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(path))


def task_files(task: str, suite: Path) -> list[Path]:
    """The files that may have given a task which lm-eval holds for inline.

    `lm_eval run --tasks FILE.yaml` (or a pattern, or a folder) reads the files and hands over what
    they say, without their paths: they are found again among the words of the command line.

    Args:
        task: its name.
        suite: a folder of folders of tasks, which is looked through first.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    def says(path: Path) -> bool:
        try:
            return bool(load_yaml(path, resolve_func=False).get("task") == task)
        except Exception:  # whatever is on the command line need not be a task
            return False

    for paths in (suite.glob("*/*.yaml"), _named_files()):
        found = sorted({path.absolute() for path in paths if says(path)})
        if found:
            return found
    return []


def _named_files() -> Iterator[Path]:
    """YAML files that words of the command line name."""
    for name in (name for word in sys.argv[1:] for name in word.split(",")):
        pattern = name.rpartition("=")[2] if name.startswith("--") else name
        for path in map(Path, glob.glob(pattern)):  # noqa: PTH207 (as lm-eval does it)
            if path.is_dir():
                yield from path.glob("*.yaml")
            elif path.suffix == ".yaml" and path.is_file():
                yield path


def bbq_biased_answers(doc: Mapping[str, Any]) -> list[str]:
    """The texts of a BBQ document's biased answers, by the rule of lm-eval's own task `bbq`.

    `lm_eval.tasks.bbq.utils.process_docs` takes a data set, of which it only calls `map`.
    """
    from lm_eval.tasks.bbq.utils import process_docs

    class One:
        def map(self, function: Any) -> Any:
            return function(dict(doc))

    return list(process_docs(One())["biased_answers"])


def chosen(
    docs: Any, numbers: Sequence[int], rank: int, world_size: int
) -> Iterator[tuple[int, Any]]:
    """(position among `numbers`, document) of a process's share, as of `Task.doc_iterator`."""
    from lm_eval.utils import create_iterator

    picked = enumerate(docs[number] for number in numbers)
    return iter(create_iterator(picked, rank=rank, limit=None, world_size=world_size))


def serialized(task: Any) -> dict[str, Any]:
    """A task's configuration as text and numbers; functions by their source.

    `TaskConfig.to_dict` leaves the functions inside `fewshot_config` what they are.
    """
    config = task.config

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return config.serialize_function(value) if callable(value) else value

    return dict(plain(config.to_dict()))


def add_metric(task: Any, name: str, aggregation: Any, *, higher_is_better: bool | None) -> None:
    """Give a built task a further metric, which its own `process_results` computes.

    In a task's configuration lm-eval would look for a function of the metric's name, on the Hub
    as well; `_aggregation_list` and `_higher_is_better` are what `aggregation()` and
    `higher_is_better()` return.

    Args:
        task: a `ConfigurableTask`.
        name: of the metric.
        aggregation: a function of the documents' values, or the registered name of one.
        higher_is_better: None where neither is.
    """
    from lm_eval.api.registry import get_aggregation

    is_name = isinstance(aggregation, str)
    task._aggregation_list[name] = get_aggregation(aggregation) if is_name else aggregation
    task._higher_is_better[name] = higher_is_better


def aggregated(
    tasks: Mapping[str, Any],
    values: Mapping[str, Mapping[tuple[str, str], list[Any]]],
    groups: Mapping[str, Any],
) -> dict[str, Any]:
    """lm-eval's results (`results`, `groups`, `configs`, `versions`, …) of documents' values.

    The public `evaluate` aggregates only what it has run itself, with one model and one set of
    weights; `_process_results` and `_to_eval_results` are its second half.

    Args:
        tasks: name → task.
        values: name → (metric, filter) → one value a document.
        groups: name → group, as `TaskManager.load` has them.
    """
    from lm_eval.evaluator_utils import _process_results

    accumulated = {
        name: {"task": task, "raw_metrics": dict(values[name]), "logged_samples": []}
        for name, task in tasks.items()
    }
    results = _process_results(accumulated, dict(groups), bootstrap_iters=0)
    return dict(results._to_eval_results(samples=None))


def scores_tokens(lm: Any) -> bool:
    """Whether a model's `loglikelihood` tokenises and then calls `_loglikelihood_tokens`."""
    return hasattr(lm, "_loglikelihood_tokens")


def token_pairs(lm: Any, requests: Sequence[Any]) -> TokenPairs:
    """What the model's own `loglikelihood` would score: it is run with its scoring replaced.

    Args:
        lm: a model for which `scores_tokens`.
        requests: lm-eval's instances.
    """
    collected: TokenPairs = []

    def collect(pairs: TokenPairs, **options: Any) -> list[tuple[float, bool]]:
        del options
        collected.extend(pairs)
        return [(0.0, False)] * len(pairs)

    lm._loglikelihood_tokens = collect
    try:
        lm.loglikelihood(list(requests), disable_tqdm=True)
    finally:
        del lm._loglikelihood_tokens  # the class's own again
    return collected


def loglikelihood_of_tokens(
    lm: Any, pairs: TokenPairs, *, quiet: bool = True
) -> list[tuple[float, bool]]:
    """Score tokens from `token_pairs`, with the weights that the model has now.

    The public `loglikelihood` tokenises every request again, for every point of a sweep.
    """
    return list(lm._loglikelihood_tokens(pairs, disable_tqdm=quiet))


def is_plain_causal(lm: Any) -> bool:
    """Whether `_loglikelihood_tokens` is that of `hf`, for a causal model: plain calls."""
    from lm_eval.models.huggingface import HFLM

    if not isinstance(lm, HFLM) or lm.backend != "causal":
        return False
    names = ("_loglikelihood_tokens", "_model_call", "_select_cont_toks")
    return all(getattr(type(lm), name) is getattr(HFLM, name) for name in names)


def cut_pairs(lm: Any, pairs: TokenPairs) -> list[bool] | None:
    """Which requests `hf` shortens, from the left, before it scores them; None of other models.

    `_loglikelihood_tokens` does so: a causal model is given all tokens but the last one.
    """
    from lm_eval.models.huggingface import HFLM

    if not isinstance(lm, HFLM):
        return None
    most = lm.max_length
    if lm.backend == "causal":
        return [len(context) + len(text) > most + 1 for _, context, text in pairs]
    return [max(len(context), len(text)) > most for _, context, text in pairs]


def templated(like: Any, history: list[dict[str, str]], is_open: bool) -> str:
    """Messages in a chat template, as `hf` puts them.

    Private: `HFLM.apply_chat_template` reads nothing of a model but `tokenizer` and
    `chat_template_args`.

    Args:
        like: has both.
        history: the messages.
        is_open: whether the answer is still to come.
    """
    from lm_eval.models.huggingface import HFLM

    return str(HFLM.apply_chat_template(like, history, is_open))


def set_torch_model(lm: Any, model: Any) -> None:
    """Put another torch module into an lm-eval model; `HFLM.model` is a read-only property."""
    for name in ("_model", "model"):
        if name in vars(lm):
            setattr(lm, name, model)
