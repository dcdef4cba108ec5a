"""Whom the documents of lm-eval's own tasks are about."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.tasks import Result, answer
from mergekit_fair.evaluation.wrapped import Doc, WrappedTask

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
        given = str(doc["bias_type"])
        kinds = [kind for kind in BIAS_TYPES if given.startswith(kind)]
        if not kinds:
            raise DataError(
                "unknown type of bias", where="column 'bias_type'", got=given, allowed=BIAS_TYPES
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
