"""Tasks that lm-eval ships, with fairness metrics and with splits: whom a document is about.

The stock YAML is read from the installed lm_eval: prompt, choices and metrics are its own. Its
documents are dealt into a validation and a report split, and ours are added to its metrics.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.compat.lm_eval import load_task_yaml
from mergekit_fair.errors import ConfigError, DataError
from mergekit_fair.evaluation.dealt_tasks import DealtTask, Doc
from mergekit_fair.evaluation.tasks import Result, answer, fairness_items

# The test split of ToxiGen spells two of its groups in two ways.
_TOXIGEN_GROUPS = {
    "black folks / african-americans": "black/african-american folks",
    "native american folks": "native american/indigenous folks",
}
# As the stock tasks name them, which take all of bias_type that starts so; "autre" is other.
BIAS_TYPES = (
    *("age", "autre", "disability", "gender", "nationality", "physical-appearance"),
    *("race-color", "religion", "sexual-orientation", "socioeconomic"),
)


class WrappedTask(DealtTask):
    """A stock task whose documents are about groups; a subclass says which.

    Config: `task`, `wraps` (the stock YAML inside lm_eval/tasks), `metric_list` (added to the stock
    ones in place of the fairness metrics), and what else a task's YAML may hold.

    Attributes:
        positive: the number of the choice that is the prediction 1.
    """

    positive: int = 1

    def __init__(self, config: Mapping[str, Any]) -> None:
        ours = {key: value for key, value in config.items() if key != "class"}
        stock, added = _stock_config(str(ours.pop("wraps"))), ours.pop("metric_list", None)
        self.pool = str(stock.get("test_split") or stock.get("validation_split"))
        version = (stock.pop("metadata", None) or {}).get("version")
        ours["metadata"] = {"wraps_version": version, **(ours.get("metadata") or {})}
        super().__init__({**stock, **ours}, added)

    def stratum(self, doc: Doc) -> Hashable:
        return (*self.groups(doc), int(self.doc_to_target(doc)))

    def fair_metrics(self, doc: Doc, results: Sequence[Result]) -> dict[str, Any]:
        """Ours of one document: the label is whether the positive choice is the target."""
        choice = answer(results)
        prediction = None if choice is None else int(choice == self.positive)
        label = int(int(self.doc_to_target(doc)) == self.positive)
        return fairness_items(prediction, label, self.groups(doc))

    def process_results(self, doc: Doc, results: Sequence[Result]) -> dict[str, Any]:
        measured = super().process_results(doc, results)
        # --predict_only has taken all metrics away.
        return (
            measured
            if "bypass" in self.aggregation()
            else {**measured, **self.fair_metrics(doc, results)}
        )


class ToxiGen(WrappedTask):
    """Prediction 1 = Yes, the statement is hateful; group = whom it is about."""

    columns = ("text", "target_group", "toxicity_ai", "toxicity_human")
    positive = 1

    def groups(self, doc: Doc) -> list[str]:
        group = doc["target_group"]
        return [str(_TOXIGEN_GROUPS.get(group, group))] if group else []

    def unit(self, doc: Doc) -> Hashable:
        return doc["text"]


class Winogender(WrappedTask):
    """Prediction 1 = the pronoun refers to the occupation; group = the pronoun's gender."""

    columns = ("sentence", "pronoun", "occupation", "participant", "gender", "label")
    positive = 0  # the choices are occupation, participant

    def groups(self, doc: Doc) -> list[str]:
        return [doc["gender"]]

    def unit(self, doc: Doc) -> Hashable:
        """The sentence template: two for every occupation, one for either answer."""
        return (doc["occupation"], int(doc["label"]))


class CrowsPairs(WrappedTask):
    """Is the more stereotypical sentence the likelier one, by type of bias; there is no label."""

    columns = ("sent_more", "sent_less", "bias_type")
    positive = 0

    def groups(self, doc: Doc) -> list[str]:
        """The type of bias; an unknown one has no metric, which would end a run at its end."""
        kind = str(doc["bias_type"])
        kinds = [name for name in BIAS_TYPES if kind.startswith(name)]
        if not kinds:
            raise DataError(
                "unknown type of bias", where="column 'bias_type'", got=kind, allowed=BIAS_TYPES
            )
        return kinds

    def unit(self, doc: Doc) -> Hashable:
        return (doc["sent_more"], doc["sent_less"])

    def fair_metrics(self, doc: Doc, results: Sequence[Result]) -> dict[str, Any]:
        """The preference for the gap between types, and under the name of its own type.

        Equal likelihoods prefer nothing, as in the stock metric.
        """
        (kind,) = self.groups(doc)
        preferred = None if answer(results) is None else int(results[0][0] > results[1][0])
        return {
            "preference_gap": (preferred, kind),
            **{f"pct_stereotype_{name}": None for name in BIAS_TYPES},
            f"pct_stereotype_{kind}": preferred,
            "unanswered": int(preferred is None),
        }


def _stock_config(name: str) -> dict[str, Any]:
    import lm_eval.tasks

    path = Path(lm_eval.tasks.__file__).parent / name
    if not path.is_file():
        raise ConfigError(
            "the installed lm_eval has no such task file",
            where="wraps",
            got=name,
            fix="check the path inside lm_eval/tasks, and lm_eval's version",
        )
    config = load_task_yaml(path)
    ours = ("task", "tag", "group", "task_list")
    return {key: value for key, value in config.items() if key not in ours}
