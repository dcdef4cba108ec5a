"""A small file for every task of `evals/`, with the columns of its real data set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

N = 60
Record = dict[str, Any]
GENDERS = ("men", "non_binary", "transgender_men", "transgender_unspecified")
GENDERS += ("transgender_women", "women", "other")
RACES = ("asian", "black", "latinx", "native_american", "middle_eastern")
RACES += ("pacific_islander", "white", "other")
IDENTITIES = ("male", "female", "transgender", "other_gender", "black", "white", "asian", "latino")
IDENTITIES += ("other_race_or_ethnicity", "christian", "jewish", "muslim", "hindu", "buddhist")
IDENTITIES += ("atheist", "other_religion")
BIAS_TYPES = ("age", "disability", "gender", "race-color", "religion")


def _adult(row: int) -> Record:
    races = ("White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other")
    numbers = {"hours-per-week": 40, "capital-gain": row, "capital-loss": 0}
    words = dict.fromkeys(("marital-status", "education", "occupation", "workclass"), "x")
    return {
        "age": 20 + row,
        **words,
        **numbers,
        "Probability": ("<=50K", ">50K")[row % 2],
        "sex": ("Female", "Male")[row // 2 % 2],
        "race": races[row // 2 % 5],
    }


def _compas(row: int) -> Record:
    races = ("African-American", "Caucasian", "Hispanic", "Asian", "Native American", "Other")
    counts = ("priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count")
    return {
        "sex": "Male",
        "age": 20 + row,
        "race": races[row // 2 % 6],
        "c_charge_degree": "FM"[row % 2],
        "c_charge_desc": f"charge {row}",
        **dict.fromkeys(counts, row % 3),
        "days_b_screening_arrest": -1,
        "is_recid": 0,
        "score_text": "Low",
        "two_year_recid": row % 2,
    }


def _german(row: int) -> Record:
    codes = {"status": "A11", "credit_history": "A34", "purpose": "A410", "savings": "A61"}
    codes |= {"employment": "A71", "property": "A121", "installment_plans": "A143"}
    codes |= {"housing": "A152", "skill_level": "A173", "other_debtors": "A101"}
    return {
        **codes,
        "month": 6,
        "credit_amount": 1000 + row,
        "age": 30,
        "personal_status": ("A91", "A92", "A93", "A94")[row // 2 % 4],
        "credit": 1 + row % 2,
    }


def _redditbias(row: int) -> Record:
    return {
        "text": f"comment {row}",
        "label": row % 2,
        "group": ("black", "female", "jewish")[row // 2 % 3],
        "split": ("train", "validation", "report")[row // 6 % 3],
    }


def _civil_comments(row: int) -> Record:
    scores = {name: float(row // 2 % 8 == index % 8) for index, name in enumerate(IDENTITIES)}
    return {
        "id": row,
        "comment_text": f"comment {row}",
        "split": ("train", "val", "test")[row // 16 % 3],
        "toxicity": (0.5, 0.6)[row % 2],  # 0.5 is not above 0.5
        **scores,
    }


def _dlab_hate(row: int) -> Record:
    """Two annotators a comment; the first one names a group more than the second."""
    comment = row // 2
    named = {f"target_gender_{name}": comment // 2 % 7 == i for i, name in enumerate(GENDERS)}
    named |= {f"target_race_{name}": comment // 2 % 8 == i for i, name in enumerate(RACES)}
    return {
        "comment_id": comment,
        "annotator_id": row,
        "text": f"comment {comment}",
        "hate_speech_score": (-1.0, 1.5)[comment % 2],
        **{name: inside and row % 2 == 0 for name, inside in named.items()},
    }


def _utkface(row: int) -> Record:
    return {
        "image": f"{row}.png",
        "age": (30, 31)[row % 2],
        "gender": ("Male", "Female")[row // 2 % 2],
        "ethnicity": ("White", "Black", "Asian", "Indian", "Other")[row // 2 % 5],
    }


def _toxigen(row: int) -> Record:
    groups = ("women", "black folks / african-americans", "black/african-american folks")
    return {
        "text": f"statement {row}",
        "target_group": groups[row // 2 % 3],
        "toxicity_ai": (1.0, 5.0)[row % 2],
        "toxicity_human": (1.0, 5.0)[row % 2],
    }


def _winogender(row: int, name: str | None = None) -> Record:
    """Every template with three pronouns, and once more with "someone"."""
    template, variant = divmod(row, 6)
    gender = ("male", "female", "neutral")[variant % 3]
    occupation = name or f"occupation{template // 2}"
    participant = ("customer", "someone")[variant // 3]
    pronoun = {"male": "he", "female": "she", "neutral": "they"}[gender]
    label = template % 2
    return {
        "sentid": f"{occupation}.{participant}.{label}.{gender}.txt",
        "sentence": f"The {occupation} told the {participant} that {pronoun} could.",
        "pronoun": pronoun,
        "occupation": occupation,
        "participant": participant,
        "gender": gender,
        "target": (occupation, participant)[label],
        "label": label,
    }


def _winogender_gotcha(row: int) -> Record:
    """The same about occupations of either majority."""
    from mergekit_fair.evaluation.benchmarks.winogender_gotcha import MOSTLY_MEN, MOSTLY_WOMEN

    return _winogender(row, (MOSTLY_MEN, MOSTLY_WOMEN)[row // 12 % 2][row // 24])


def _crows_pairs(row: int) -> Record:
    return {
        "sent_more": f"more {row}",
        "sent_less": f"less {row}",
        "stereo_antistereo": "stereo",
        "bias_type": BIAS_TYPES[row % 5],
    }


def _bbq(row: int) -> Record:
    """16 templates of two categories; of each every polarity and context, in three orders."""
    template, variant = divmod(row, 12)
    order, polarity, context = variant // 4, variant % 2, variant // 2 % 2
    answers = [("The old one", "old"), ("The young one", "nonOld"), ("Not known", "unknown")]
    if template % 2:
        answers = [("The Hindu one", "Hindu"), ("The Jewish one", "Jewish"), answers[2]]
    shown = answers[order:] + answers[:order]
    right = answers[2] if context == 0 else answers[(template // 2 + variant + order) % 2]
    return {
        "example_id": row,
        "question_index": str(1 + template // 2),
        "question_polarity": ("neg", "nonneg")[polarity],
        "context_condition": ("ambig", "disambig")[context],
        "category": ("Age", "Religion")[template % 2],
        "answer_info": {f"ans{at}": [text, code] for at, (text, code) in enumerate(shown)},
        "additional_metadata": {
            "stereotyped_groups": [answers[template // 2 % 2][1]],
            "version": "a",
        },
        "context": f"Two people met in template {template}.",
        "question": f"Who was {('late', 'early')[polarity]}?",
        **{f"ans{at}": text for at, (text, _) in enumerate(shown)},
        "label": shown.index(right),
    }


def _stereoset(row: int) -> Record:
    """Sentences with a blank, and pairs of sentences, about twelve terms of two types."""
    term, is_within = row // 2 % 12, row % 2 == 0
    words = ("fox", "good", "bad") if row % 3 else ("bad", "fox", "good")
    labels = {"good": 0, "bad": 1, "fox": 2}  # the Hub's numbers: opposite, stereotype, unrelated
    return {
        "id": f"s{row}",
        "target": f"term {term}",
        "bias_type": ("gender", "race")[term % 2],
        "context": f"Term {term} was BLANK in {row}."
        if is_within
        else f"I met term {term}, {row}.",
        "sentences": {
            "sentence": [f"Term {term} was {word} in {row}." for word in words],
            "gold_label": [labels[word] for word in words],
        },
    }


def _winobias(row: int) -> Record:
    """Eight sentences about every two of sixteen occupations, as the authors write them."""
    from mergekit_fair.evaluation.benchmarks.winobias import OCCUPATIONS

    pair, variant = divmod(row, 8)
    names = (OCCUPATIONS[pair % 39], OCCUPATIONS[pair % 39 + 1])
    number, stereotype, at = 1 + variant % 2, ("pro", "anti")[variant // 2 % 2], variant // 4
    is_man = (stereotype == "pro") == (at == 0)  # the first one is mostly done by men
    mentioned = [
        f"[the {name}]" if place == at else f"the {name}" for place, name in enumerate(names)
    ]
    pronoun = ("[he]", "[him]") if is_man else ("[she]", "[her]")
    return {
        "sentence": f"{row} {mentioned[0].replace('the', 'The')} met {mentioned[1]} "
        f"{('because ' + pronoun[0] + ' left', 'and ' + pronoun[1])[number - 1]}.",
        "type": number,
        "stereotype": stereotype,
    }


def _discrim_eval(row: int) -> Record:
    """Every race, gender and one of two ages in each of eight decisions."""
    decision, person = divmod(row, 30)
    race = ("white", "Black", "Asian", "Hispanic", "Native American")[person % 5]
    gender, age = ("male", "female", "non-binary")[person // 5 % 3], (20, 100)[person // 15]
    return {
        "filled_template": f"May the {age}-year-old {gender} {race} person have {decision}?",
        "decision_question_id": decision,
        "age": age,
        "gender": gender,
        "race": race,
        "fill_type": "explicit",
    }


RECORDS: dict[str, Callable[[int], Record]] = {
    "fair_adult": _adult,
    "fair_compas": _compas,
    "fair_german": _german,
    "fair_redditbias": _redditbias,
    "fair_civil_comments": _civil_comments,
    "fair_dlab_hate": _dlab_hate,
    "fair_utkface": _utkface,
    "fair_toxigen": _toxigen,
    "fair_winogender": _winogender,
    "fair_winogender_gotcha": _winogender_gotcha,
    "fair_crows_pairs": _crows_pairs,
    "fair_bbq": _bbq,
    "fair_bbq_generate": _bbq,
    "fair_discrim_eval": _discrim_eval,
    "fair_stereoset": _stereoset,
    "fair_winobias": _winobias,
}
_SEVERAL = {
    **dict.fromkeys(("fair_bbq", "fair_bbq_generate", "fair_discrim_eval"), 4),
    **dict.fromkeys(("fair_dlab_hate", "fair_utkface", "fair_stereoset", "fair_winobias"), 2),
    **dict.fromkeys(("fair_winogender", "fair_winogender_gotcha"), 2),
}
_NESTED = ("answer_info", "additional_metadata", "sentences")  # JSON in the cells of a csv file


def table(family: str, n: int = N) -> pd.DataFrame:
    """The small table of a family of tasks."""
    return pd.DataFrame([RECORDS[family](row) for row in range(_SEVERAL.get(family, 1) * n)])


def write_table(family: str, folder: Path, suffix: str = ".csv", n: int = N) -> Path:
    """The same in a file, and the pictures that it names beside it."""
    frame, path = table(family, n), folder / f"{family}{suffix}"
    if family == "fair_utkface":
        from PIL import Image

        for row, name in enumerate(frame["image"]):
            Image.new("RGB", (4, 4), (row, 0, 255 - row)).save(folder / name)
    if suffix == ".csv":
        for name in set(_NESTED) & set(frame):
            frame[name] = frame[name].map(json.dumps)
        frame.to_csv(path, index=False)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return path
