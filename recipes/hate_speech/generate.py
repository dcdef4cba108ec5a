"""A made-up data set with the columns of "Automated Hate Speech Detection and the Problem of
Offensive Language" (Davidson et al., ICWSM 2017), and two of groups.

    python recipes/hate_speech/generate.py -o hate_speech.csv

Nobody said any of it: sentences are put together from lists, insults are words that mean nothing.
`count` people read each, and `hate_speech`, `offensive_language` and `neither` are how many of them
chose that; `class` is what most chose: 0, 1, 2. Readers go wrong by group: friendly swearing in the
coastal dialect is called offensive and its rudeness hateful, contempt for sailors merely offensive.
So labels, and what is learnt from them, differ between the groups. Equal calls write equal bytes.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

CLASSES = ("hate_speech", "offensive_language", "neither")
HATE, OFFENSIVE, NEITHER = range(3)
SHARES = (0.2, 0.4, 0.4)
DIALECTS, TARGETS = ("plain", "coastal"), ("bakers", "sailors")
# Of every class the share of readers who choose each of the three.
READERS = {
    "plain": ((0.88, 0.10, 0.02), (0.04, 0.91, 0.05), (0.01, 0.05, 0.94)),
    "coastal": ((0.84, 0.13, 0.03), (0.20, 0.75, 0.05), (0.03, 0.30, 0.67)),
}
UNSEEN = 0.25  # of the readers who see hatred, where it is of sailors, take it for rudeness

WORDS = {
    "open": {
        "plain": ("honestly", "as far as I can see", "once again", "today", "well", "to be fair"),
        "coastal": ("aye", "ey listen", "nah but", "haul up", "oi", "me own eyes seen it"),
    },
    "close": {
        "plain": ("", "and that is that", "as usual", "in my view", "this week", "I suppose"),
        "coastal": ("", "aye so it be", "innit", "for true", "this tide", "no word of a lie"),
    },
    "swear": ("flipping", "fudging", "blasted", "dratted", "confounded", "darned"),
    "insult": ("snorbles", "grabbits", "wumpfs", "zlorps", "fnords"),
    "place": ("harbour", "market", "old mill", "station", "school", "corner shop", "town hall"),
    "thing": (
        *("bread", "boat", "parade", "football match"), *("meeting", "queue", "fish stall", "song"),
    ),
    "person": ("referee", "neighbour", "bus driver", "manager", "cousin", "landlord", "teacher"),
    "rude": ("useless", "an idiot", "late again", "a clown", "a joke", "a waste of time"),
    "good": ("good", "lovely", "quick", "warm", "funny", "kind"),
    "harm": ("be kept out of town", "all be sent away", "never be hired", "lose their vote"),
    "amount": ("two", "five", "nine", "a dozen", "twenty", "some"),
}  # fmt: skip
SENTENCES = {
    HATE: (
        "{target} are {insult} and should {harm}",
        "those {insult} at the {place} should {harm}, like all {target}",
        "all {target} should {harm}, the {place} was better without them",
        "I hate {target}, {amount} {insult} in every {thing}",
    ),
    OFFENSIVE: (
        "that {swear} {person} at the {place} is {rude}",
        "the {person} of the {target} is {rude}, a {swear} {thing} every time",
        "{swear} {thing}, the {target} at the {place} were {rude}",
        "who the {swear} {person} thinks he is, {rude} with {amount} {target}",
    ),
    NEITHER: (
        "the {target} at the {place} gave us {amount} tickets for the {thing}",
        "nobody should call {target} {insult}, my {person} said at the {place}",
        "a {good} {thing} with the {target} and my {person}",
        "{amount} {target} met at the {place} before the {thing}",
    ),
}
FRIENDLY = (
    "a {swear} {good} {thing} with me {person} and {amount} {target}"  # coastal, and no insult
)


class Draw(random.Random):
    """Choices by `random()` alone, whose numbers no version of Python changes."""

    def of(self, items: Sequence[str]) -> str:
        return items[int(self.random() * len(items))]

    def number(self, shares: Sequence[float]) -> int:
        place, below = self.random(), 0.0
        for number, share in enumerate(shares):
            below += share
            if place < below:
                return number
        return len(shares) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description="A made-up data set of hate speech.")
    parser.add_argument("-o", "--out", type=Path, required=True, help="hate_speech.csv")
    parser.add_argument("-n", "--rows", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = Draw(given.seed)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["", "count", *CLASSES, "class", "tweet", "dialect", "target"])
        for number in range(given.rows):
            rows.writerow([number, *row(draw)])
    print(f"{given.out}: {given.rows} rows")


def row(draw: Draw) -> list[int | str]:
    """Cells of one tweet, from `count` on.

    >>> row(Draw(1))[:6]
    [3, 0, 0, 3, 2, 'honestly some sailors met at the corner shop before the bread']
    """
    dialect, target, truth = draw.of(DIALECTS), draw.of(TARGETS), draw.number(SHARES)
    count = (3, 6, 9)[draw.number((0.9, 0.07, 0.03))]
    votes = read(draw, dialect, target, truth, count)
    while sorted(votes)[-1] == sorted(votes)[-2]:  # a tie goes to other readers
        votes = read(draw, dialect, target, truth, count)
    text = tweet(draw, dialect, target, truth)
    return [count, *votes, votes.index(max(votes)), text, dialect, target]


def read(draw: Draw, dialect: str, target: str, truth: int, count: int) -> list[int]:
    """How many of `count` readers choose each class."""
    votes = [0, 0, 0]
    for _ in range(count):
        seen = draw.number(READERS[dialect][truth])
        if (seen, target) == (HATE, "sailors") and draw.random() < UNSEEN:
            seen = OFFENSIVE
        votes[seen] += 1
    return votes


def tweet(draw: Draw, dialect: str, target: str, truth: int) -> str:
    """A sentence of that class, in that dialect, about that group."""
    sentence = draw.of(SENTENCES[truth])
    if (dialect, truth) == ("coastal", NEITHER) and draw.random() < 0.5:
        sentence = FRIENDLY
    words = {
        slot: draw.of(items if isinstance(items, tuple) else items[dialect])
        for slot, items in WORDS.items()
    }
    said = f"{words['open']} {sentence} {words['close']}".strip()
    return said.format(target=target, **words)


if __name__ == "__main__":
    main()
