"""A training folder's record, train.json: what was done, with which settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.adapter_config import CONFIG as ADAPTER
from mergekit_fair.errors import TrainingError
from mergekit_fair.evaluation.evaluate import versions
from mergekit_fair.files import text_of, write_atomic
from mergekit_fair.progress import Progress
from mergekit_fair.schema import differences, parse_json
from mergekit_fair.training.finetune import BATCHES
from mergekit_fair.training.kinds import KINDS
from mergekit_fair.training.soup import FOLDER as SOUP
from mergekit_fair.training.train_config import TrainConfig


class FamilyRecord:
    """A training folder and its train.json, which the main process alone writes."""

    def __init__(self, folder: Path, config: TrainConfig, data: str, *, is_writer: bool) -> None:
        self._is_writer = is_writer
        self.folder = folder
        self.path = folder / "train.json"
        self.settings = _settings(config, data)
        self.record: dict[str, Any] = {"settings": self.settings, "runs": {}}

    def claim(self, progress: Progress) -> None:
        """Take the folder over, or go on with it.

        Raises:
            TrainingError: it was trained with other settings; names them.
        """
        if self.path.is_file():
            record = self._read()
            there, here = (dict(each) for each in (record["settings"], self.settings))
            for name in ("subgroups", *KINDS):  # trained then, now or never
                if name in here and False in (there.setdefault(name, False), here[name]):
                    there[name] = here[name] = there[name] or here[name]
            if other := differences(there, here):
                raise TrainingError(
                    f"was trained with other settings: {'; '.join(other)}",
                    where=self.folder,
                    fix="choose another folder with -o, or remove this one",
                )
            self.record = record | {"settings": here}
            progress.say(f"{self.folder}: going on ({len(record['runs'])} models are there)")
        elif any(path for path in self.folder.iterdir() if not path.name.startswith(".")):
            raise TrainingError(
                "is not empty and holds no train.json",
                where=self.folder,
                fix="choose another folder with -o",
            )
        self.write()

    def _read(self) -> dict[str, Any]:
        try:
            record = parse_json(text_of(self.path))
            blocks = [record["settings"], record["runs"], *dict(record["runs"]).values()]
            if all(isinstance(each, dict) for each in blocks):
                return dict(record)
            raise ValueError("settings and runs are no mappings")
        except (ValueError, LookupError, TypeError) as error:
            raise TrainingError(
                f"is damaged ({type(error).__name__}: {error})",
                where=self.path,
                fix="choose another folder with -o, or remove this one",
            ) from error

    def has(self, name: str) -> bool:
        """Whether a model is there, and train.json says so."""
        return name in self.record["runs"] and is_whole(self.folder / name)

    def has_other_batches(self, name: str) -> bool:
        """Whether a model is there that an earlier version has trained."""
        return self.has(name) and self.record["runs"][name].get("batches") != BATCHES

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Write that a model is there; a soup of which it is a part is none any more."""
        if name in self.of_soup:
            self.forget(SOUP)
        self.record["runs"][name] = entry
        self.write()

    def sort(self, names: Sequence[str]) -> None:
        """Runs in this order, whatever was done first; what has no place in it follows."""
        runs = self.record["runs"]
        first = {name: runs[name] for name in names if name in runs}
        self.record["runs"] = first | runs

    def forget(self, name: str) -> None:
        """Of what is made anew: a killed process leaves no word of what was there before."""
        if self.record["runs"].pop(name, None) is not None:
            self.write()

    @property
    def of_soup(self) -> list[str]:
        """The runs that the soup is the mean of; empty if there is none."""
        return list(self.record["runs"].get(SOUP, {}).get("of", ())) if self.has(SOUP) else []

    def remove(self, folder: Path) -> None:
        """What nobody needs any more."""
        if self._is_writer:
            shutil.rmtree(folder, ignore_errors=True)

    def write(self, **more: Any) -> None:
        """Write train.json, with more of its keys."""
        self.record |= {"versions": versions(), **more}
        if self._is_writer:
            write_atomic(self.path, json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")


def is_whole(folder: Path) -> bool:
    """Whether a model or an adapter is there: folders appear complete, or not at all."""
    return any((folder / name).is_file() for name in ("config.json", ADAPTER))


def _settings(config: TrainConfig, data: str) -> dict[str, Any]:
    """What decides every run, as it comes back from JSON; without what keeps whole models, and
    epochs that are FFT's, of which earlier versions say nothing."""
    settings = config.model_dump(mode="json", exclude={"data", "save_every", "seeds"})
    for name in ("lora", "subgroups"):
        if settings[name] and settings[name]["keep"] == "model":
            del settings[name]["keep"]
    if settings["lora"] and settings["lora"]["epochs"] is None:
        del settings["lora"]["epochs"]
    text = json.dumps({**settings, "data_sha256": data}, sort_keys=True)
    return dict(json.loads(text))
