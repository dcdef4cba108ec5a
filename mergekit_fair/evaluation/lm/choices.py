"""Which class a task's choice is: said by `choice_map`, or the label of exactly that name.

The positive class is never guessed: a head without names (`LABEL_0`, `LABEL_1`) needs a
`choice_map`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from mergekit_fair.data.label_rules import LabelKind
from mergekit_fair.errors import CheckpointError, ConfigError
from mergekit_fair.evaluation import advice
from mergekit_fair.schema import nearest

_MULTI_LABEL = "multi_label_classification"


def class_names(config: Any, where: object) -> dict[str, int]:
    """Name → class of a model's head, as transformers' pipelines read it: by `id2label`.

    Where a file holds `label2id` alone, transformers calls the classes LABEL_0, LABEL_1, ….

    Args:
        config: transformers' configuration.
        where: the model, for messages.

    Raises:
        CheckpointError: two classes have one name, or `id2label` and `label2id` both name the
            classes, and not the same.
    """
    by_id = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    if len(set(by_id.values())) < len(by_id):
        raise CheckpointError(
            "two classes have one name",
            where=f"{where}: config.json: id2label",
            got=by_id,
            fix="give each class a name of its own: predictions depend on it",
        )
    by_name = {str(name): index for name, index in (config.label2id or {}).items()}
    names = {name: index for index, name in by_id.items()}
    is_default = all(name == f"LABEL_{index}" for name, index in by_name.items())
    if by_name == names or is_default:
        return names
    raise CheckpointError(
        "id2label and label2id name other classes",
        where=f"{where}: config.json",
        got=f"{by_id} and {by_name}",
        fix="correct the one that is wrong: predictions depend on it",
    )


def is_multi_label(config: Any, where: object) -> bool:
    """Whether a head answers for each label by itself, and not for one of two classes or more.

    Raises:
        CheckpointError: a regression, which does neither.
    """
    kind = getattr(config, "problem_type", None)
    if kind == _MULTI_LABEL:
        return True
    if config.num_labels < 2 or kind not in (None, "single_label_classification"):
        raise CheckpointError(
            "its head gives no distribution over classes",
            where=where,
            got=kind if config.num_labels > 1 else f"{config.num_labels} class",
            allowed="two classes or more, of which a document has one",
        )
    return False


class Choices:
    """The classes of choices, 0 … C − 1.

    Args:
        labels: the model's label2id.
        n_classes: C.
        choice_map: choice → class, its number or its label: a mapping, or text such as
            `no:0;yes:1` (lm-eval splits its `--model_args` at commas). It names what labels leave
            open; what a label says (in any case), it may not contradict.
        is_multi_label: each class is a label by itself, which a document has or not.
        where: the model, for messages.

    Raises:
        ConfigError: not a map, or one that names a class twice, a class that is not there, or
            another class than the label of that name.
    """

    def __init__(
        self,
        labels: Mapping[str, int],
        n_classes: int,
        choice_map: Any = None,
        *,
        is_multi_label: bool = False,
        where: object = None,
    ) -> None:
        self.count, self.is_multi_label, self._where = n_classes, is_multi_label, where
        self._labels = {
            str(name): index
            for name, index in labels.items()
            if isinstance(index, int) and 0 <= index < n_classes
        }
        self._is_given = choice_map is not None
        pairs = _pairs(choice_map) if self._is_given else self._labels
        self.classes = {
            choice: _class_of(choice, value, self._labels, n_classes) if self._is_given else value
            for choice, value in pairs.items()
        }
        if self._is_given and len(set(self.classes.values())) < len(self.classes):
            raise ConfigError("names a class twice", where="choice_map", got=self.classes)
        _refuse_contradictions(self.classes, self._labels)

    @classmethod
    def of_model(cls, config: Any, where: object, choice_map: Any = None) -> Self:
        """The classes of a model's head.

        Args:
            config: transformers' configuration.
            where: the model, for messages.
            choice_map: see above.

        Raises:
            CheckpointError: a regression, or a configuration that names two sets of classes.
            ConfigError: as above.
        """
        independent = is_multi_label(config, where)
        names = class_names(config, where)
        return cls(names, config.num_labels, choice_map, is_multi_label=independent, where=where)

    def require_kind(self, kind: LabelKind, task: str) -> None:
        """The head answers as a task asks.

        Args:
            kind: how the task's documents are answered.
            task: its name.

        Raises:
            CheckpointError: one class is asked for, and the head answers for each label by itself;
                or the other way round.
        """
        if (kind == "labels") == self.is_multi_label:
            return
        where = f"{self._where}: config.json: problem_type"
        if self.is_multi_label:
            raise CheckpointError(
                f"its head answers for each label by itself, and a document of {task} has one "
                "answer",
                where=where,
                got=_MULTI_LABEL,
                allowed="single_label_classification",
                fix="use a classifier of classes, or describe the data's `labels`",
            )
        raise CheckpointError(
            f"its head answers with one class, and a document of {task} has each of several "
            "labels or not",
            where=where,
            allowed=_MULTI_LABEL,
            fix="use a classifier of labels, or describe one data set per label",
        )

    def of(self, choices: Iterable[str]) -> dict[str, int]:
        """Choice as the task has it → class; spaces around a choice do not count.

        Raises:
            ConfigError: a choice that no class is known of; shows what to pass.
        """
        stripped = {choice: choice.strip() for choice in choices}
        unknown = [text for text in dict.fromkeys(stripped.values()) if text not in self.classes]
        if unknown:
            raise self._unknown(unknown, list(dict.fromkeys(stripped.values())))
        return {choice: self.classes[text] for choice, text in stripped.items()}

    def left_out(self, choices: Iterable[str]) -> str | None:
        """That a head has classes which none of the choices is; None if it has not.

        Of labels each is answered by itself: others change nothing.
        """
        if self.is_multi_label:
            return None
        known = set(self.of(choices).values())
        names = {index: name for name, index in self._labels.items()}
        others = [names.get(index, str(index)) for index in range(self.count) if index not in known]
        if not others:
            return None
        named = ", ".join(map(repr, others))
        return (
            f"the head has {self.count} classes, and {named} is no choice of the task: where it is "
            "the likeliest class, the likeliest choice counts"
        )

    def _unknown(self, unknown: list[str], choices: list[str]) -> ConfigError:
        if self._is_given:
            return ConfigError(
                f"choice_map does not say which class {unknown[0]!r} is"
                f"{nearest(unknown[0], list(self.classes))}",
                got=self.classes,
                fix=f"the task's choices are {choices[:8]}; name each of them",
            )
        if len(choices) > self.count:
            return ConfigError(
                "the task has more choices than the model has classes",
                got=choices[:8],
                allowed=list(self._labels)[:8],
                fix="use a model whose head has a class for each of them",
            )
        example = self._example(choices)
        return ConfigError(
            "the task's choices are not the model's labels",
            got=choices[:8],
            allowed=list(self._labels)[:8],
            fix=f"say which class each choice is: {advice.choice_map(example)}, if "
            f"{choices[0]!r} is class {example[choices[0]]} (or the class's label in place of its "
            "number)" + self._rest(choices),
        )

    def _example(self, choices: list[str]) -> dict[str, int]:
        """By labels that differ in case alone; else in their order."""
        alike = {name.strip().casefold(): index for name, index in self._labels.items()}
        found = {choice: alike.get(choice.casefold(), -1) for choice in choices[:8]}
        is_known = -1 not in found.values()
        return found if is_known else {choice: at for at, choice in enumerate(choices[:8])}

    def _rest(self, choices: list[str]) -> str:
        """Of a head with more classes than there are choices."""
        more = self.count - len(choices)
        return f"; of its other classes ({more}) none is ever predicted" if more > 0 else ""


def _pairs(choice_map: Any) -> dict[str, Any]:
    """Choice → what stands for its class."""
    if isinstance(choice_map, Mapping):
        for choice in choice_map:
            if isinstance(choice, bool) or not isinstance(choice, str | int):
                raise _bad("a choice must be text (YAML reads no without quotes as false)", choice)
        listed = [(str(choice), value) for choice, value in choice_map.items()]
    elif isinstance(choice_map, str):
        parts = [part.rpartition(":") for part in choice_map.split(";") if part.strip()]
        for _, colon, value in parts:
            if not colon or not value.strip():
                raise _bad("is no list of choices and classes", choice_map)
        listed = [(choice, value.strip()) for choice, _, value in parts]
    else:
        raise _bad("is neither a mapping nor text", choice_map)
    pairs = {choice.strip(): value for choice, value in listed}
    if not pairs or len(pairs) < len(listed):
        raise _bad("names a choice twice" if pairs else "names no choice", choice_map)
    return pairs


def _refuse_contradictions(classes: Mapping[str, int], labels: Mapping[str, int]) -> None:
    """One map is for all models that are measured, and one of them may have the other order."""
    named = {name.strip().casefold(): index for name, index in labels.items()}
    for choice, index in classes.items():
        if named.get(choice.casefold(), index) != index:
            raise ConfigError(
                f"{choice!r} is class {index} in choice_map, and class {named[choice.casefold()]} "
                "by the model's labels",
                where="choice_map",
                got=dict(labels),
                fix="leave it out for this model, or correct id2label and label2id in its "
                "config.json, whichever is wrong",
            )


def _bad(problem: str, got: Any) -> ConfigError:
    return ConfigError(problem, where="choice_map", got=got, allowed="such as no:0;yes:1")


def _class_of(choice: str, value: Any, labels: Mapping[str, int], n_classes: int) -> int:
    label = labels.get(value) if isinstance(value, str) else None
    number = value
    if isinstance(value, str):
        number = int(value) if value.isascii() and value.isdigit() else None
    if label is not None and number is not None and label != number:
        raise ConfigError(
            f"{value!r} is the label of class {label} and the number of another",
            where=f"choice_map: {choice}",
            fix="write choice_map as a mapping, choice → number (an integer is always a number)",
        )
    index = label if number is None else number
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_classes:
        raise ConfigError(
            "is no class of the model",
            where=f"choice_map: {choice}",
            got=value,
            allowed=[*map(str, range(n_classes)), *labels],
        )
    return index
