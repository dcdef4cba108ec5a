"""Worst-group injection: the worst-served group's task vector, added to a fine-tuned model."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from mergekit_fair.checkpoints.folder import require_no_vector
from mergekit_fair.errors import MeasurementError, RecipeError
from mergekit_fair.merging.methods.declaration import MethodSpec, ParameterScope, ParameterSpec
from mergekit_fair.merging.methods.formula import Formula, Term
from mergekit_fair.merging.methods.members import distinct_groups, members_by_role, parameters_of
from mergekit_fair.merging.methods.shared_parameters import HEAD, LAMBDA, SPARSE, GroupName
from mergekit_fair.merging.methods.task_vector_method import (
    TaskVectorMethod,
    TensorInputs,
    require_distinct,
    sparse_settings,
)
from mergekit_fair.schema import read_sealed

# A group of this name says nothing about who is in it (arXiv 2505.24262 leaves it out).
EXCLUDED = ("other",)


class Role(StrEnum):
    """`target` is the fine-tuned model injected into; `candidate` a subgroup model."""

    TARGET = "target"
    CANDIDATE = "candidate"


class WorstGroupInjection(TaskVectorMethod):
    """θ_new = θ_target + λ (θ_worst − θ₀).

    Concept: the target was fine-tuned on all rows; one subgroup's vector is added to it. Only
    the candidate whose group equals `worst` enters the sum. In a recipe, `worst: auto` is the
    group that the evaluation under `fairness.report` serves worst.
    Inputs: the base θ₀, one model with `role: target`, one `role: candidate` per subgroup.
    Key parameters: `lambda`, `worst`; `density` and `sparsify` of the injected vector.
    Numerics: float64, rounded once; λ = 0 returns the target bit for bit.
    Source: "On Fairness of Task Arithmetic", arXiv 2505.24262.
    """

    spec = MethodSpec(
        name="worst_group_injection",
        pretty_name="Worst-Group Injection",
        reference_url="https://arxiv.org/abs/2505.24262",
        fewest=2,
        parameters=(
            ParameterSpec(
                "role",
                Role,
                ParameterScope.NON_BASE,
                description="target (exactly one model) or candidate",
            ),
            ParameterSpec(
                "group",
                str,
                ParameterScope.NON_BASE,
                default="",
                description="a candidate's subgroup; unique",
            ),
            LAMBDA,
            ParameterSpec(
                "worst",
                GroupName,
                ParameterScope.SHARED,
                description="the group whose vector is injected",
            ),
            HEAD,
            *SPARSE,
        ),
    )

    resolves = frozenset({"worst"})

    def check(self, raw: dict[str, Any], where: str) -> None:
        members = members_by_role(raw, Role, where)
        targets, candidates = members[Role.TARGET], members[Role.CANDIDATE]
        if len(targets) != 1:
            raise RecipeError(
                "needs exactly one model with role: target", where=where, got=len(targets)
            )
        require_no_vector(str(targets[0]["model"]))
        if not candidates:
            raise RecipeError("needs at least one model with role: candidate", where=where)
        names = distinct_groups(candidates, where)
        worst = parameters_of(raw).get("worst")
        if worst == "auto" and "auto" not in names:
            _require_report(raw, where)
        elif worst not in names:
            raise RecipeError(
                "parameters.worst must be a candidate's group, or auto with fairness.report",
                where=where,
                got=worst,
                allowed=names,
            )

    def resolve(self, raw: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]] | None:
        """`worst: auto` becomes the group that the evaluation under `fairness.report` names."""
        candidates = distinct_groups(members_by_role(raw, Role, where)[Role.CANDIDATE], where)
        if parameters_of(raw)["worst"] != "auto" or "auto" in candidates:
            return None
        name, notes = _worst(raw, candidates)
        changed = copy.deepcopy(raw)
        changed["parameters"]["worst"] = name
        return changed, notes

    def first(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Hashable:
        return _roles(inputs, parameters)[0]

    def vectors(self, inputs: TensorInputs, parameters: Mapping[str, Any]) -> Formula:
        target, candidates = _roles(inputs, parameters)
        worst = parameters["worst"]
        if worst not in candidates:
            hint = "; `mergekit-fair grid` writes recipes with auto filled in"
            raise ValueError(
                f"worst: {worst!r} is not a candidate's group; allowed: {', '.join(candidates)}"
                f"{hint if worst == 'auto' else ''}"
            )
        model = candidates[worst]
        return Formula(
            start=target,
            base=inputs.base,
            terms=(Term(1.0, model, parameters["density"][model], worst),),
            scale=parameters["lambda"],
            **sparse_settings(parameters),
        )


def _roles(
    inputs: TensorInputs, parameters: Mapping[str, Any]
) -> tuple[Hashable, dict[str, Hashable]]:
    roles, names = parameters["role"], parameters["group"]
    targets = [model for model in inputs.models if roles[model] == Role.TARGET]
    if len(targets) != 1:
        raise ValueError(f"exactly one model needs role: target; got {len(targets)}")
    candidates = sorted(
        (model for model in inputs.models if roles[model] == Role.CANDIDATE),
        key=lambda model: names[model],
    )
    require_distinct([names[model] for model in candidates])
    return targets[0], {names[model]: model for model in candidates}


def injection_recipe(
    base: str,
    target: str,
    candidates: Mapping[str, str],
    worst: str,
    dtype: str | None,
    *,
    lambda_: float = 0.2,
) -> dict[str, Any]:
    """A recipe that adds one group's vector to `target`; candidates: group → model."""
    models: list[dict[str, Any]] = [{"model": target, "parameters": {"role": "target"}}]
    models += [
        {"model": model, "parameters": {"role": "candidate", "group": name}}
        for name, model in candidates.items()
    ]
    recipe: dict[str, Any] = {
        "merge_method": WorstGroupInjection.spec.name,
        "base_model": base,
        "models": models,
        "parameters": {"lambda": lambda_, "worst": worst},
    }
    return recipe | ({"dtype": dtype} if dtype else {})


def _require_report(raw: dict[str, Any], where: str) -> None:
    settings = raw.get("fairness")
    settings = settings if isinstance(settings, dict) else {}
    if not isinstance(settings.get("report"), str):
        raise RecipeError(
            "worst: auto needs fairness.report, the file of an evaluation",
            where=where,
            got=settings.get("report"),
            fix="write fairness: {report: FILE}, or name the group",
        )
    size, excluded = settings.get("min_group_size", 1), settings.get("exclude", [])
    if type(size) is not int or size < 1:
        raise RecipeError(
            "must be a number of rows, 1 or more",
            where=f"{where}: fairness.min_group_size",
            got=size,
        )
    if not isinstance(excluded, list):
        raise RecipeError(
            "must be a list of groups", where=f"{where}: fairness.exclude", got=excluded
        )


def _worst(raw: dict[str, Any], candidates: list[str]) -> tuple[str, list[str]]:
    """The worst-served candidate, and what to say about it."""
    from mergekit_fair.fairness.eligible_groups import worst_group
    from mergekit_fair.fairness.settings import MIN_GROUP_SIZE

    settings = raw["fairness"]
    report = settings["report"]
    evaluation = _evaluation(raw, report)
    excluded = {str(name).casefold() for name in settings.get("exclude", EXCLUDED)}
    left_out = [name for name in candidates if name.casefold() in excluded]
    smallest = settings.get("min_group_size", MIN_GROUP_SIZE)
    try:
        worst, harms = worst_group(
            evaluation, candidates=candidates, excluded=left_out, min_group_size=smallest
        )
    except MeasurementError as error:
        raise MeasurementError(
            f"no candidate group has a DPD and an EOD that rest on {smallest} rows or more",
            where=report,
            got=list(evaluation["groups"]),
            allowed=[group for group in candidates if group not in left_out],
            fix="name the group in parameters.worst, or change fairness",
        ) from error
    notes = [
        f"worst: {worst}, whose mean of one-vs-rest DPD and EOD, {harms[worst]:.4f}, is the "
        f"largest in {report}"
    ]
    equal = [name for name, harm in harms.items() if harm == harms[worst] and name != worst]
    if equal:
        notes.append(f"{', '.join(equal)} ties with {worst}, which comes first by name")
    unseen = [group for group in candidates if group not in harms]
    if unseen:
        notes.append(
            f"left out: {', '.join(unseen)} (excluded, without a rate, or with one of fewer than "
            f"{smallest} rows, of the group or of its rest)"
        )
    if evaluation.get("split") == "report":
        notes.append("the worst group was chosen on the report split, which is then not untouched")
    return worst, notes


def _evaluation(raw: dict[str, Any], report: str) -> dict[str, Any]:
    """One evaluation in JSON, or that of the target among a sweep's results."""
    fix = "give the JSON of an evaluation of the target, or a sweep's results.json"
    content = read_sealed(Path(report), "evaluation", RecipeError, fix=fix)
    models = {parameters_of(item).get("role"): item["model"] for item in raw["models"]}
    target = Path(str(models[Role.TARGET])).name
    points = content.get("points") if isinstance(content, dict) else None
    if isinstance(points, list):
        baselines = {
            str(point.get("label")): point
            for point in points
            if isinstance(point, dict) and point.get("kind") == "baseline"
        }
        if target not in baselines:
            raise RecipeError(
                "these results have no baseline with the name of the target's folder",
                where=report,
                got=target,
                allowed=sorted(baselines) or "a results.json with baselines",
            )
        content = baselines[target].get("evaluation")
    if not _is_evaluation(content):
        raise RecipeError(
            "holds no evaluation of answers by no or yes (one_vs_rest and groups)",
            where=report,
            fix=fix,
        )
    evaluation: dict[str, Any] = content
    return evaluation


def _is_evaluation(content: Any) -> bool:
    """Whether every group has its numbers of rows, and its DPD and EOD or null."""
    from mergekit_fair.fairness.eligible_groups import positives_of

    try:
        return positives_of(content) is not None and all(
            all(type(content["groups"][name][key]) is int for key in ("n", "n_pos"))
            and all(gaps[key] is None or 0 <= gaps[key] <= 1 for key in ("dpd", "eod"))
            for name, gaps in content["one_vs_rest"]["groups"].items()
        )
    except (LookupError, TypeError, AttributeError):
        return False
