"""Fair heads as points of a sweep: fitted on baselines' features, chosen by the same rule.

Their coefficients were fitted on validation rows: what a point says of those is measured by
coefficients that have not seen the row; of report rows, by the merged head's very weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from mergekit_fair.evaluation.evaluator import Evaluator
from mergekit_fair.evaluation.predictions import Predictions, Scores
from mergekit_fair.evaluation.soft_objective import deciding_groups
from mergekit_fair.heads.fair_head import FairHead, require_enough
from mergekit_fair.heads.head_results import NOTE
from mergekit_fair.heads.head_run import notes_of_constant, repeated_rows
from mergekit_fair.heads.target_checks import require_classifier
from mergekit_fair.heads.unseen import parts
from mergekit_fair.heads.written_head import merged_gaps, recipe_of_head
from mergekit_fair.merging.merge_options import MergeOptions
from mergekit_fair.merging.references import base_and_adapter
from mergekit_fair.schema import digest_of_json
from mergekit_fair.sweep.head_block import CHOSEN, FairHeads
from mergekit_fair.sweep.head_features import TargetFeatures
from mergekit_fair.sweep.head_target import HeadTarget
from mergekit_fair.sweep.point_runner import PointRunner
from mergekit_fair.sweep.points import Planner, Point
from mergekit_fair.sweep.record import PlannedPoint, PointResult
from mergekit_fair.sweep.rescored import Decision, Rescored
from mergekit_fair.sweep.selected import HEADS
from mergekit_fair.sweep.sweep_config import Sweep
from mergekit_fair.sweep.worker import PointWorker

OpenWorker = Callable[[], PointWorker]


@dataclass(frozen=True, eq=False)
class Later:
    """Scores that are computed when they are asked for, whatever the rows' own are."""

    make: Callable[[], Scores]

    def scores(self, predictions: Predictions) -> Scores:
        """Them."""
        del predictions
        return self.make()


@dataclass(frozen=True, eq=False)
class HeadPoint:
    """A head with a λ.

    Attributes:
        point: of the sweep.
        target: whose head it is.
        fair: as it was fitted.
        unseen: validation scores at λ = 1.
    """

    point: Point
    target: HeadTarget
    fair: FairHead
    unseen: Callable[[], Scores]

    @property
    def mu(self) -> float:
        """That it was fitted with."""
        return float(self.point.planned.settings["mu"])

    def along(self, split: str, scores: Scores) -> Scores:
        """s + λ (s' − s), of scores s' at λ = 1."""
        own = self.target.features.of(split).rows.scores
        moved: Scores = own + float(self.point.planned.settings["lambda"]) * (scores - own)
        return moved


@dataclass(frozen=True, eq=False)
class Heads:
    """All heads of a sweep; none where it asks for none.

    Attributes:
        runner: has the baselines' scores, and stores what is measured.
        found: id → head.
        missing: rows that a pass still has to be run over, where none may be run.
        is_whole: whether all heads are here.
        warnings: why some are not there.
        options: mergekit's, by which models are opened.
    """

    runner: PointRunner
    found: Mapping[str, HeadPoint] = field(default_factory=dict)
    missing: int = 0
    is_whole: bool = True
    warnings: Sequence[str] = ()
    options: MergeOptions | None = None

    @classmethod
    def fit(
        cls,
        sweep: Sweep,
        planner: Planner,
        runner: PointRunner,
        open_worker: OpenWorker | None,
        chosen: Callable[[], Point | None],
    ) -> Heads:
        """On the features of every target, as far as the budget goes.

        Args:
            sweep, planner, runner: that has measured all other points.
            open_worker: gives what runs models; None: none may be run.
            chosen: what the rule chooses without heads.

        Raises:
            MeasurementError: fewer than two groups decide the gap, or hardly any rows.
        """
        block, grid = sweep.config.head, sweep.head_grid
        if block is None or grid is None:
            return cls(runner)
        found: dict[str, HeadPoint] = {}
        missing, is_whole, said = 0, True, []
        targets = [point for point in planner.baselines() if point.label in block.of]
        if CHOSEN in block.of:
            merge = chosen()
            if merge is not None and planner.with_head(merge, {}, 1.0) is not None:
                targets.append(merge)
            else:
                said.append(_no_merge(merge))
        for point in targets:
            target = _target(sweep, planner, runner, block, point, open_worker)
            rows = sum(map(target.features.missing, ("train", "validation")))
            if rows and open_worker is None:
                missing += rows
                is_whole = False
            elif rows and runner.budget.is_spent:
                runner.unfinished[f"heads of {point.label}"] = grid.most
            else:
                heads = target.heads(grid.mus)
                said += _staying(target.name, heads)
                moving = [fair for fair in heads if fair.stays is None]
                if moving:
                    notes = notes_of_constant(target.features.layer, target.rows)
                    said += [f"{target.name}: {text}" for text in notes]
                below = runner.store.folder / HEADS  # one set: heads differ in coefficients alone
                vectors = target.write(moving[0], below) if moving else {}
                is_whole = is_whole and bool(vectors or not moving)
                for head in _points(planner, target, moving, vectors, grid.lambdas):
                    found.setdefault(head.point.id, head)
        return cls(runner, found, missing, is_whole, list(dict.fromkeys(said)), planner.options)

    @property
    def points(self) -> list[Point]:
        """In their order."""
        return [head.point for head in self.found.values()]

    def results(self) -> list[PointResult]:
        """Of all, on validation rows."""
        measured: dict[str, list[HeadPoint]] = {}
        for head in self.found.values():
            measured.setdefault(head.target.name, []).append(head)
        return [
            result
            for heads in measured.values()
            for result in self._rescored(
                heads[0], [_later(head.point.planned, _validation(head)) for head in heads]
            ).results(self.runner.split)
        ]

    def chosen(self, point: Point | None) -> Rescored:
        """The chosen head by its merged weights; nothing if another point is chosen."""
        head = self._head(point)
        if head is None or head.point.recipe is None:
            return Rescored.none(self.runner)
        recipe, features = head.point.recipe, head.target.features

        def merged() -> Scores:
            rows = features.of("report").features
            return merged_gaps(recipe, features.layer, rows, self.options)

        return self._rescored(head, [_later(head.point.planned, merged)])

    def controls(self, point: Point | None, asked: Sequence[str], split: str) -> Rescored:
        """What the chosen head is to be compared with: nothing of it can be chosen."""
        head = self._head(point)
        if head is None:
            return Rescored.none(self.runner)
        made = []
        if "random" in asked:
            made.append(_later(_planned_random(head), lambda: _random(head, split)))
        if "refit" in asked and head.target.can_be_refitted:
            made.append(_later(_planned_refit(head), lambda: head.target.refitted(split)))
        return self._rescored(head, made)

    def notes(self, point: Point | None, asked: Sequence[str]) -> list[str]:
        """Why some heads are not there; of a chosen head what it needs, and controls that are asked
        for and cannot be made."""
        head = self._head(point)
        if head is None:
            return [*self.warnings]
        is_made = "refit" not in asked or head.target.can_be_refitted
        unmade = [] if is_made else ["controls: refit: too few validation rows of one label"]
        return [*self.warnings, NOTE, *unmade]

    def merge_of(self, point: Point | None) -> Point | None:
        """The merge that a chosen head is of; None of a baseline's, or of another point."""
        head = self._head(point)
        target = None if head is None else head.target.features.target
        return None if target is None or target.kind == "baseline" else target

    def to_report(self, point: Point | None) -> bool:
        """Whether a pass over the report rows is left to run for the chosen head."""
        head = self._head(point)
        is_done = head is None or head.point.id in self.runner.store.results("report")
        return not is_done and head is not None and bool(head.target.features.missing("report"))

    def _head(self, point: Point | None) -> HeadPoint | None:
        return None if point is None else self.found.get(point.id)

    def _rescored(self, one: HeadPoint, made: Sequence[Decision]) -> Rescored:
        """On the scores of one's target."""
        decisions = {decision.planned.label: decision for decision in made}
        return Rescored(self.runner, one.target.features.target.id, decisions)


def require_heads(sweep: Sweep, evaluator: Evaluator) -> None:
    """Check, before anything is run, that heads can be fitted.

    Raises:
        CheckpointError: a target is no classifier.
        MeasurementError: too few rows or clusters, or groups of enough of them.
        DataError: there are no training rows.
    """
    block = sweep.config.head
    if block is None:
        return
    evaluate = sweep.config.evaluate
    for name in block.of:
        model = sweep.base if name == CHOSEN else sweep.config.baselines[name]
        model, _ = base_and_adapter(model, sweep.base)
        require_classifier(model, evaluate.data, trusts_remote_code=evaluate.trusts_remote_code)
    (rows,) = evaluator.binary_labels("validation").values()
    evaluator.labels("train")
    fitted = rows.take(~repeated_rows(evaluator))
    require_enough(fitted)
    parts(fitted, sweep.config.seed)
    answered = rows.with_scores(rows.labels - 0.5)
    deciding_groups(block.metric, answered, evaluate.settings(sweep.config.seed))


def _target(
    sweep: Sweep,
    planner: Planner,
    runner: PointRunner,
    block: FairHeads,
    point: Point,
    open_worker: OpenWorker | None,
) -> HeadTarget:
    key = digest_of_json([point.id, runner.evaluator.fingerprint(("train",))])[:16]
    features = TargetFeatures(
        point, runner, runner.store.folder / HEADS / "features", key, open_worker
    )
    # What is no whole model is a merge, or an adapter on the base.
    model = point.models[0] if point.recipe is None else planner.models()[0]
    return HeadTarget(
        point.label,
        model,
        partial(recipe_of_head, model)
        if point.recipe is None
        else partial(planner.with_head, point),
        features,
        runner.settings,
        block.settings(sweep.config.seed),
        repeated_rows(runner.evaluator),
    )


def _no_merge(merge: Point | None) -> str:
    """Why there are no heads of the chosen merge."""
    if merge is None:
        return "head.of: chosen: without heads no merge is chosen"
    return f"head.of: chosen: {merge.label} is no sum of task vectors, each with one λ"


def _staying(target: str, heads: Sequence[FairHead]) -> Iterator[str]:
    """Why there is no head at some μ."""
    for fair in heads:
        if fair.stays is not None:
            tried = [each.mu for each in fair.tried if each.mu]
            at = f" at μ = {tried[0]:g}" if len(tried) == 1 else ""
            yield f"{target} keeps its head{at}: {fair.stays}"


def _points(
    planner: Planner,
    target: HeadTarget,
    heads: Sequence[FairHead],
    vectors: Mapping[str, str],
    lambdas: Sequence[float],
) -> Iterator[HeadPoint]:
    """Every head at every λ; none without vectors."""
    for fair in heads if vectors else ():
        assert fair.mu is not None  # of a head that moves
        weights = fair.coefficients.tolist()
        added = {
            path: (name, weight)
            for (path, name), weight in zip(vectors.items(), weights, strict=True)
        }
        unseen = cache(partial(target.unseen, fair, fair.mu))
        for value in lambdas:
            recipe = target.recipe(added, value)
            assert recipe is not None  # of a target
            made = {"mu": fair.mu, "lambda": value}
            point = planner.head(target.name, recipe, list(vectors), made)
            yield HeadPoint(point, target, fair, unseen)


def _later(planned: PlannedPoint, make: Callable[[], Scores]) -> Decision:
    return Decision(planned, Later(cache(make)))


def _validation(head: HeadPoint) -> Callable[[], Scores]:
    return lambda: head.along("validation", head.unseen())


def _random(head: HeadPoint, split: str) -> Scores:
    """The same head along random directions."""
    drawn = head.target.random(head.fair, head.mu)
    if split == "validation":
        return head.along(split, head.target.unseen(drawn, head.mu))
    return head.along(split, drawn.moved(head.target.features.of(split)).scores)


def _planned_random(head: HeadPoint) -> PlannedPoint:
    planned = head.point.planned
    return planned.model_copy(
        update={
            "id": digest_of_json([planned.id, "random directions", head.target.head.seed])[:16],
            "kind": "control",
            "label": f"random {planned.label}",
            "lambda_": None,  # of other vectors than the merges' controls have
        }
    )


def _planned_refit(head: HeadPoint) -> PlannedPoint:
    target, settings = head.target, head.target.settings
    about = (settings.min_group_size, sorted(settings.exclude), target.head.seed)
    return PlannedPoint(
        id=digest_of_json([target.features.target.id, "refit", *about])[:16],
        kind="refit",
        label=f"{target.name} + balanced refit",
        settings={"target": target.name},
        lambda_=None,
        lambda_eff=None,
    )
