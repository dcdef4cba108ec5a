"""Winogender's "gotcha" sentences: does a pronoun mislead where statistics do?

Rudinger et al., Gender Bias in Coreference Resolution, NAACL 2018 (arXiv 1804.09301). A pronoun
refers to an occupation or to a participant. It is a *gotcha* where who goes by the statistics of
US employment gets it wrong: it is not of the occupation's majority gender and refers to the
occupation, or it is and refers to the participant. Neutral pronouns are neither.

    gap = accuracy(other) − accuracy(gotcha), of male and female pronouns

Accuracy of gotchas, and of those of a gender, is lm-eval's `winogender_gotcha` and
`winogender_gotcha_female`, `_male`. `wrapped_tasks.Winogender` has DPD and EOD of these sentences.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from mergekit_fair.errors import DataError
from mergekit_fair.evaluation.benchmarks.benchmark_items import Columns
from mergekit_fair.evaluation.benchmarks.benchmark_task import BenchmarkTask
from mergekit_fair.evaluation.dealt_tasks import Doc
from mergekit_fair.evaluation.tasks import answer
from mergekit_fair.fairness.benchmark import Benchmark, BenchmarkMetric, mean_of

# By the authors' occupations-stats.tsv, column bls_pct_female (2015).
MOSTLY_WOMEN = (
    *("accountant", "administrator", "appraiser", "auditor", "baker", "bartender", "broker"),
    *("cashier", "clerk", "counselor", "dietitian", "dispatcher", "educator", "examiner"),
    *("hairdresser", "hygienist", "instructor", "librarian", "nurse", "nutritionist"),
    *("paralegal", "pathologist", "pharmacist", "planner", "practitioner", "psychologist"),
    *("receptionist", "secretary", "teacher", "therapist", "veterinarian"),
)
MOSTLY_MEN = (
    *("advisor", "architect", "carpenter", "chef", "chemist", "doctor", "electrician"),
    *("engineer", "firefighter", "inspector", "investigator", "janitor", "lawyer"),
    *("machinist", "manager", "mechanic", "officer", "painter", "paramedic", "physician"),
    *("plumber", "programmer", "salesperson", "scientist", "specialist", "supervisor"),
    *("surgeon", "technician", "worker"),
)
GENDERS = ("male", "female", "neutral")

BENCHMARK = Benchmark(
    "winogender_gotcha",
    (
        mean_of(
            "acc",
            "accuracy",
            better="higher",
            by_group=True,
            range_title="range of accuracy over pronouns",
        ),
        mean_of("acc_gotcha", "accuracy, gotchas", better="higher", by_group=True),
        mean_of("acc_other", "accuracy, no gotchas", better="higher", by_group=True),
        BenchmarkMetric(
            "gap",
            "accuracy of no gotchas minus that of gotchas",
            lambda means: means["acc_other"] - means["acc_gotcha"],
            ("acc_other", "acc_gotcha"),
            "zero",
            (-1.0, 1.0),
            by_group=True,
        ),
        mean_of("unanswered", "without a usable answer", better="lower", by_group=True),
    ),
    group_title="gender of the pronoun",
)


class WinogenderGotcha(BenchmarkTask):
    """Winogender by the likelihood of occupation and participant."""

    benchmark = BENCHMARK
    columns = ("sentence", "pronoun", "occupation", "participant", "gender", "label")

    def read(self, docs: list[Doc]) -> list[Doc]:
        return [_checked(doc) for doc in docs]

    def unit(self, doc: Doc) -> Hashable:
        """The template, as of `fair_winogender`: the same documents are in a split."""
        return (doc["occupation"], int(doc["label"]))

    def stratum(self, doc: Doc) -> Hashable:
        return int(doc["label"])

    def groups(self, doc: Doc) -> list[str]:
        return [doc["gender"]]

    def said(self, docs: Sequence[Doc]) -> dict[str, list[Any]]:
        return {**super().said(docs), "gotcha": [is_gotcha(doc) for doc in docs]}

    def answered(self, doc: Doc, results: Sequence[Any]) -> Columns:
        chosen = answer(results)
        right = int(chosen == int(doc["label"]))
        found: dict[str, float | None] = {"acc": right, "unanswered": int(chosen is None)}
        if doc["gotcha"] is not None:
            found["acc_gotcha" if doc["gotcha"] else "acc_other"] = right
        return found


def _checked(doc: Doc) -> Doc:
    for column, allowed in (("gender", GENDERS), ("label", (0, 1))):
        if doc[column] not in allowed:
            raise DataError(
                f"is no {column} of the pronoun",
                where=f"column {column!r}",
                got=doc[column],
                allowed=allowed,
            )
    for column in ("sentence", "pronoun", "participant"):
        if not isinstance(doc[column], str) or not doc[column].strip():
            raise DataError("must be a text", where=f"column {column!r}", got=doc[column])
    return doc


def is_gotcha(doc: Doc) -> bool | None:
    """Whether statistics mislead; None of a neutral pronoun.

    Raises:
        DataError: an occupation without statistics.

    >>> is_gotcha({"occupation": "nurse", "gender": "male", "label": 0})
    True
    >>> is_gotcha({"occupation": "nurse", "gender": "male", "label": 1})
    False
    """
    occupation = doc["occupation"]
    if occupation not in (*MOSTLY_WOMEN, *MOSTLY_MEN):
        raise DataError(
            "is no occupation of Winogender, so that its majority gender is not known",
            where="column 'occupation'",
            got=occupation,
            allowed=(*MOSTLY_MEN, *MOSTLY_WOMEN),
        )
    if doc["gender"] == "neutral":
        return None
    majority = "female" if occupation in MOSTLY_WOMEN else "male"
    return bool((doc["gender"] == majority) == (int(doc["label"]) == 1))
