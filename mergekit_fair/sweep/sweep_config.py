"""The YAML of `mergekit-fair sweep`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mergekit_fair.data import DataSpec, spec_inside
from mergekit_fair.errors import ConfigError
from mergekit_fair.fairness import MetricSettings
from mergekit_fair.fairness.settings import MIN_GROUP_SIZE
from mergekit_fair.files import beside
from mergekit_fair.merging.grid import parse_grid, require_settings
from mergekit_fair.merging.parameter_names import FORMS
from mergekit_fair.merging.recipe import Recipe
from mergekit_fair.merging.references import found_beside
from mergekit_fair.schema import Strict, load_yaml, parse
from mergekit_fair.sweep.head_block import CHOSEN, FairHeads, HeadGrid
from mergekit_fair.sweep.limits import Select
from mergekit_fair.sweep.swept_settings import require_composable, require_distinct, require_ranges
from mergekit_fair.sweep.worst_report import check_worst_report

if TYPE_CHECKING:
    from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest

FINITE = Field(allow_inf_nan=False)


class Evaluate(Strict):
    """What the points are measured on and how: `tasks` of lm-eval, or the rows of `data`.

    Attributes:
        tasks: of the suite or of one's own; the first decides, the others may be constraints.
        data: without tasks the data description, a mapping or the path of a YAML file beside this
            one, which becomes a task; with tasks a file in place of their data.
        question: ends the prompts of `data`; language models need it.
        batch_size: rows of a forward pass; 64 unless said otherwise, 8 for causal models.
        max_length: tokens; the model's own unless given.
        bf16: run forward passes under bfloat16 autocast.
        limit: rows of a task, a random sample.
        num_fewshot, system_instruction, include_path, model_args: as in `eval`.
        apply_chat_template: put prompts into the base's chat template.
        reference: which DPD and EOD `dpd` and `eod` are.
        min_group_size: as in `MetricSettings`.
        saturation: distance from the reference's selection rate that marks a point `saturated`.
        allow_trained_rows: as in `eval`.
    """

    # What says how scores are read, and where; scores are the same without it.
    _READING: ClassVar = {
        *("reference", "min_group_size", "confidence", "saturation"),
        *("device", "allow_trained_rows"),
    }

    tasks: list[str] = []
    data: DataSpec | str | None = None
    question: str | None = None
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] | None = None
    max_length: Annotated[int, Field(gt=0)] | None = None
    device: str = "auto"
    bf16: bool = False
    limit: Annotated[int, Field(gt=0)] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    include_path: str | None = None
    model_args: dict[str, Any] = {}
    reference: Literal["between_groups", "one_vs_rest", "to_overall"] = "between_groups"
    min_group_size: Annotated[int, Field(gt=0)] = MIN_GROUP_SIZE
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    saturation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    allow_trained_rows: bool = False

    @property
    def trusts_remote_code(self) -> bool:
        """Whether models may bring code of their own, which is then run."""
        return bool(self.model_args.get("trust_remote_code"))

    def asked(self) -> dict[str, Any]:
        """What decides the scores of a model, beside its own content and that of the data."""
        asked = self.model_dump(mode="json", exclude={"data", *self._READING})
        for key in ("apply_chat_template", "system_instruction"):
            if not asked[key]:  # as of sweeps that were begun before there were these
                del asked[key]
        return asked

    @model_validator(mode="after")
    def _either(self) -> Evaluate:
        if not self.tasks and self.data is None:
            raise ValueError("give tasks, or data")
        if self.tasks and self.question is not None:
            raise ValueError("question is for data; tasks have their own")
        return self

    def settings(self, seed: int) -> MetricSettings:
        """How predictions are measured."""
        return MetricSettings(
            reference=self.reference,
            confidence=self.confidence,
            min_group_size=self.min_group_size,
            seed=seed,
        )

    def request(self) -> EvaluationRequest:
        """As `eval` runs it.

        Raises:
            ConfigError: without tasks, `data` is not a description.
        """
        from mergekit_fair.evaluation.prepared_tasks import EvaluationRequest

        if not self.tasks and not isinstance(self.data, DataSpec):
            raise ConfigError("needs a data description", where="evaluate.data", got=self.data)
        arguments = dict(self.model_args)
        shows_pictures = isinstance(self.data, DataSpec) and self.data.image is not None
        if self.max_length is not None and not shows_pictures:  # a picture has no tokens
            arguments["max_length"] = self.max_length
        if self.bf16:
            arguments["mixed_precision_dtype"] = "bfloat16"
        return EvaluationRequest(
            tasks=self.data if isinstance(self.data, DataSpec) else tuple(self.tasks),
            data=self.data if isinstance(self.data, str) else None,
            question=self.question,
            model_args=arguments,
            batch_size=self.batch_size,
            limit=self.limit,
            num_fewshot=self.num_fewshot,
            apply_chat_template=self.apply_chat_template,
            system_instruction=self.system_instruction,
            include_path=self.include_path,
            allow_trained_rows=self.allow_trained_rows,
            min_group_size=self.min_group_size,
        )


class Inject(Strict):
    """The second stage: inject group vectors into a baseline.

    Attributes:
        target: the baseline.
        groups: names; `worst`, the group that the target serves worst; or `safe`, every group
            whose measured harm to any other is within `tolerance`, one after the other.
        lambda_: the λ to measure.
        step: λ at which harm is measured, for `safe`.
        tolerance: largest harm to any group that is accepted at a point's own λ: increase of the
            mean of its one-vs-rest DPD and EOD, or loss of its accuracy; `auto`: the smallest that
            the rows can be expected to show at `step`, which `--dry-run` prints.
    """

    target: str
    groups: Literal["worst", "safe"] | list[str] = "worst"
    lambda_: Any = Field("0.2:1:0.2", alias="lambda")
    step: Annotated[float, Field(gt=0, le=1)] = 0.1
    tolerance: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = 0.02


class Search(Strict):
    """A budgeted search over λ_g, after the grid.

    Attributes:
        method: random; optuna (extra `search`); surrogate, quadratic models of the groups' rates.
        budget: forward passes over the validation rows.
        around: a baseline that the groups' vectors are added to, in place of the recipe's base.
        over: name of a number, as in `grid` → [low, high]; unless given, `weight.<group>` of every
            group in [−0.5, 1], around a baseline in [−1, 1]. Where weights alone are searched, the
            recipe's λ is 1, so that a weight is λ_g.
        batch: points that are asked for at once, and can be measured side by side.
    """

    method: Literal["random", "optuna", "surrogate"] = "surrogate"
    budget: Annotated[int, Field(gt=0, le=100_000)] = 40
    around: str | None = None
    over: dict[str, tuple[Annotated[float, FINITE], Annotated[float, FINITE]]] = {}
    batch: Annotated[int, Field(gt=0)] = 1

    @model_validator(mode="after")
    def _ranges(self) -> Search:
        for name, (low, high) in self.over.items():
            if not low < high:
                raise ValueError(
                    f"over.{name}: got [{low:g}, {high:g}]; allowed: [low, high] with low < high"
                )
        return self


class SweepConfig(Strict):
    """A sweep file; see INTERFACE "Sweep file".

    Attributes:
        grid: name of a number of the recipe (`merging.parameter_names`) → its points.
        candidates: folders of finished models beside the grid, chosen by the same rule.
        controls: `random`, vectors of the same norms in the subgroups' place, or random directions
            in a head's; `threshold`, the reference baseline with other thresholds, one for all rows
            (`sweep.cutoffs`); `refit`, the last layer of a chosen head's target fitted anew.
        thresholds: a baseline; group thresholds are put on its scores, which need the group labels
            at prediction time (`evaluation.group_thresholds`).
    """

    recipe: Any
    grid: dict[str, Any] = {}
    candidates: list[str] = []
    evaluate: Evaluate
    baselines: dict[str, str] = {}
    controls: list[Literal["random", "threshold", "refit"]] = []
    thresholds: str | None = None
    select: Select = Select()
    search: Search | None = None
    inject: Inject | None = None
    head: FairHeads | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _no_race(cls, value: Any) -> Any:
        if isinstance(value, dict) and "race" in value:
            raise ValueError("race is gone since version 0.2: leave it out, and use --max-minutes")
        return value

    @model_validator(mode="after")
    def _names(self) -> SweepConfig:
        for constraint in self.select.constraints():
            if constraint.baseline is not None:
                self._require(constraint.baseline, f"select.subject_to.{constraint.metric} names")
        if self.inject:
            self._require(self.inject.target, "inject.target names")
        if "threshold" in self.controls and not self.baselines:
            raise ValueError("controls: threshold is put on a baseline's scores; none is given")
        if self.search is not None and self.search.around is not None:
            self._require(self.search.around, "search.around names")
        if self.thresholds is not None:
            self._require(self.thresholds, "thresholds names")
        self._check_head()
        return self

    def _check_head(self) -> None:
        if self.head is None:
            if "refit" in self.controls:
                raise ValueError("controls: refit is of a head's target; give head, too")
            return
        for name in self.head.of:
            if name != CHOSEN:
                self._require(name, "head.of names")
            elif CHOSEN in self.baselines:
                raise ValueError(
                    f"head.of: {CHOSEN} is the chosen merge; name the baseline otherwise"
                )
        if len(set(self.head.of)) < len(self.head.of):
            raise ValueError(f"head.of names a baseline twice; got {self.head.of}")
        for key, fits in {
            "evaluate.tasks": not self.evaluate.tasks,
            "evaluate.bf16": not self.evaluate.bf16,
            "select.split": self.select.split == "validation",
        }.items():
            if not fits:
                raise ValueError(
                    "head is fitted on the training and validation rows of evaluate.data, in the "
                    f"models' own dtype, and chosen on validation rows; leave out {key}"
                )

    def _require(self, baseline: str, who: str) -> None:
        if baseline not in self.baselines:
            raise ValueError(
                f"{who} no baseline; got {baseline!r}; "
                f"allowed: {', '.join(self.baselines) or 'none are given'}"
                + ("; a minus has spaces around it" if "-" in baseline else "")
            )


@dataclass(frozen=True)
class Sweep:
    """A sweep file with everything it names read and checked.

    Attributes:
        grid: name of a number → its points; empty without a grid.
        inject_grid: λ of the second stage; empty without one.
        ranges: name of a number → (low, high) of the search; empty without one.
        head_grid: μ and λ of heads; None without them.
    """

    config: SweepConfig
    recipe: Recipe
    grid: dict[str, tuple[float, ...]]
    inject_grid: tuple[float, ...]
    ranges: dict[str, tuple[float, float]]
    where: str
    head_grid: HeadGrid | None = None

    @property
    def base(self) -> str:
        """θ₀, or the first model of a recipe that has none: its configuration is the merges'."""
        raw = self.recipe.raw
        return str(raw.get("base_model") or raw["models"][0]["model"])


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep file, its recipe, data description and grids.

    Paths of files (`recipe`, `evaluate.data`) are relative to the sweep file. Those of folders
    (models, `evaluate.include_path`) begin in the working directory, as in mergekit, or beside it.

    Raises:
        ConfigError, RecipeError: with the file, the key, what was given and what is allowed.
    """
    raw = load_yaml(path)
    evaluate = raw.get("evaluate")
    if isinstance(evaluate, dict) and "data" in evaluate:
        raw["evaluate"] = {**evaluate, "data": _data(evaluate, path)}
    config = _with_paths(parse(SweepConfig, raw, path), path)
    _refuse_report_split(config, path)
    grid = _grid(config, path)
    inject = parse_grid(config.inject.lambda_, f"{path}: inject.lambda") if config.inject else ()
    recipe = _recipe(config, path)
    heads = None if config.head is None else HeadGrid.of(config.head, path)
    sweep = Sweep(config, recipe, grid, inject, _ranges(config, recipe), str(path), heads)
    _check_groups(sweep)
    return sweep


def _data(evaluate: dict[str, Any], path: str | Path) -> Any:
    """A data description; of tasks, the path of a file that replaces their data."""
    data = evaluate["data"]
    if not evaluate.get("tasks"):
        return spec_inside(data, path)
    if not isinstance(data, str) or not (Path(path).parent / data).is_file():
        raise ConfigError(
            "evaluate.data: no such file; with tasks it is the file that replaces their data",
            where=path,
            got=data,
        )
    return str((Path(path).parent / data).absolute())


def _with_paths(config: SweepConfig, path: str | Path) -> SweepConfig:
    """With folders that lie beside the file found from here.

    Raises:
        ConfigError: a path stands for two folders, or `include_path` for none; a candidate twice.
    """
    baselines = {
        name: beside(model, path, f"{path}: baselines.{name}")
        for name, model in config.baselines.items()
    }
    evaluate = config.evaluate
    if evaluate.include_path is not None:
        found = beside(evaluate.include_path, path, f"{path}: evaluate.include_path")
        if not Path(found).is_dir():
            raise ConfigError(
                "evaluate.include_path: no such folder", where=path, got=evaluate.include_path
            )
        evaluate = evaluate.model_copy(update={"include_path": found})
    candidates = [
        beside(model, path, f"{path}: candidates[{index}]")
        for index, model in enumerate(config.candidates)
    ]
    require_distinct(candidates, baselines, path)
    changes = {"baselines": baselines, "candidates": candidates, "evaluate": evaluate}
    return config.model_copy(update=changes)


def _refuse_report_split(config: SweepConfig, path: str | Path) -> None:
    if config.select.split == "report" and not config.select.force:
        raise ConfigError(
            "select.split: the report split is there to report on what was chosen without it",
            where=path,
            got="report",
            allowed="validation",
            fix="or set select.force: true; every output then says that its figures are optimistic",
        )


def _grid(config: SweepConfig, path: str | Path) -> dict[str, tuple[float, ...]]:
    if not config.grid and config.search is None and not config.candidates:
        raise ConfigError("grid is empty", where=path, allowed=FORMS)
    return {key: parse_grid(value, f"{path}: grid.{key}") for key, value in config.grid.items()}


def _recipe(config: SweepConfig, path: str | Path) -> Recipe:
    if isinstance(config.recipe, dict):
        recipe = Recipe.from_mapping(found_beside(config.recipe, str(path)), f"{path}: recipe")
    elif isinstance(config.recipe, str):
        recipe = Recipe.load(Path(path).parent / config.recipe)
    else:
        raise ConfigError("recipe must be a path or a mapping", where=path, got=config.recipe)
    doubt = check_worst_report(recipe)
    recipe = recipe.resolved()
    return replace(recipe, warnings=(*recipe.warnings, *([doubt] if doubt else [])))


def _ranges(config: SweepConfig, recipe: Recipe) -> dict[str, tuple[float, float]]:
    if config.search is None:
        return {}
    widest = (-0.5, 1.0) if config.search.around is None else (-1.0, 1.0)
    return config.search.over or {f"weight.{group}": widest for group in recipe.groups()}


def _check_groups(sweep: Sweep) -> None:
    groups = sweep.recipe.groups()
    require_composable(sweep.recipe)
    require_settings(sweep.recipe, sweep.grid, f"{sweep.where}: grid")
    if "random" in sweep.config.controls and not sweep.recipe.raw.get("base_model"):
        raise ConfigError(
            "random control replaces task vectors, which a recipe without base_model has not",
            where=f"{sweep.where}: controls",
            fix="leave it out, or give the recipe a base_model",
        )
    search = sweep.config.search
    if search is not None:
        require_ranges(sweep.recipe, sweep.ranges, search.around, sweep.where)
    inject = sweep.config.inject
    if inject is None:
        return
    if not groups:
        raise ConfigError("inject needs a recipe whose models name their group", where=sweep.where)
    for name in inject.groups if isinstance(inject.groups, list) else ():
        if name not in groups:
            raise ConfigError(
                "inject.groups names no group of the recipe",
                where=sweep.where,
                got=name,
                allowed=sorted(groups),
            )
