"""README.md of a merged model on the Hub: who was measured, what was found, what was not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit_fair.report.page_tables import (
    Table,
    comparison_rows,
    group_rows,
    lines_table,
    tasks_of,
)
from mergekit_fair.report.text_tables import verdict
from mergekit_fair.schema import parse_yaml

Results = dict[str, Any]
Line = dict[str, Any]

_TEMPLATES = Path(__file__).parent / "templates"
_TAGS = ("mergekit", "merge", "mergekit-fair", "fairness")
# What the class of a checkpoint ends with → the Hub's name of its use, and of the task measured.
_USES = {
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForCausalLM": "text-generation",
}
_METRICS = {
    "acc": ("accuracy", "accuracy"),
    "dpd": ("demographic_parity_difference", "demographic parity difference (DPD)"),
    "eod": ("equalized_odds_difference", "equalized odds difference (EOD)"),
    "worst_group_acc": ("worst_group_accuracy", "worst-group accuracy"),
}


def card_of_sweep(
    results: Results, *, name: str, recipe: str, config: Mapping[str, Any], pictures: Sequence[str]
) -> str:
    """The card of the point that a sweep has chosen.

    Args:
        results: the content of results.json, in which a point was chosen.
        name: of the model.
        recipe: the merge recipe, YAML.
        config: the model's config.json.
        pictures: paths of pictures beside the card.
    """
    chosen = results["selected"]["id"]
    line = next(line for line in results["report"] if line["id"] == chosen)
    own = [line] if "evaluation" in line else []
    return _rendered(
        name=name,
        recipe=recipe,
        config=config,
        lines=results["report"],
        own=own,
        results=results,
        confidence=results["confidence"],
        verdicts=verdict(results).splitlines(),
        comparison=comparison_rows(results["comparison"]) if results["comparison"] else None,
        pictures=list(pictures),
    )


def card_of_evaluations(
    evaluations: Sequence[dict[str, Any]], *, name: str, recipe: str, config: Mapping[str, Any]
) -> str:
    """The card of a model that `eval` has measured.

    Args:
        evaluations: `eval`'s, one a task.
        name: of the model.
        recipe: the merge recipe, YAML; empty for a model that is none.
        config: the model's config.json.
    """
    first = evaluations[0]
    line = {
        **{"id": "model", "kind": "model", "label": name, "lambda_eff": None},
        "split": first["split"],
        "evaluation": first,
        "tasks": {found["task"]: found for found in evaluations[1:]},
    }
    return _rendered(
        name=name,
        recipe=recipe,
        config=config,
        lines=[line],
        own=[line],
        results={"selected": {"id": "model"}},
        confidence=first["confidence"],
        verdicts=[],
        comparison=None,
        pictures=[],
    )


# Letters of Markdown where they mean something: an underscore within a word does not, nor does a
# bracket that no link can follow.
_MEANINGFUL = (r"[\\`*|~#]", r"(?<!\w)_|_(?!\w)", r"\](?=[(\[:])")


class Raw(str):
    """Text that is Markdown already."""

    __slots__ = ()


def escaped(value: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    if isinstance(value, Raw):
        return value
    text = re.sub(r"\s*\n\s*", " ", str(value))
    for characters in _MEANINGFUL:
        text = re.sub(characters, r"\\\g<0>", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(table: Table) -> Raw:
    """A pipe table; sections have their titles in its first column."""
    right = "--:" if table.numeric else "---"
    lines = [
        _row([table.corner, *table.columns]),
        _row_of(["---", *[right] * len(table.columns)]),
    ]
    for title, rows in table.sections:
        if title:
            lines.append(_row_of([f"**{escaped(title)}**", *[""] * len(table.columns)]))
        for row in rows:
            name = f"**{escaped(row.head)}**" if row.chosen else escaped(row.head)
            head = " ".join([name, *(f"*{escaped(tag)}*" for tag in row.tags)])
            cells = [
                f"**{escaped(cell.text)}** {escaped(cell.note)}".rstrip()
                if cell.strong
                else f"{escaped(cell.text)} {escaped(cell.note)}".rstrip()
                for cell in row.cells
            ]
            cells += [""] * (len(table.columns) - len(cells))
            lines.append(_row_of([head, *cells]))
    return Raw("\n".join(lines))


def _row(cells: Sequence[str]) -> str:
    return _row_of([escaped(cell) for cell in cells])


def _row_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rendered(
    *,
    name: str,
    recipe: str,
    config: Mapping[str, Any],
    lines: Sequence[Line],
    own: Sequence[Line],
    results: Results,
    confidence: float,
    verdicts: Sequence[str],
    comparison: Table | None,
    pictures: Sequence[str],
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # Markdown: `finalize` escapes every value
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tasks = tasks_of(own)
    tables = [lines_table(results, lines, task) for task in tasks]
    groups = [group_rows(own, task) for task in tasks]
    merge = _merge(recipe)
    return environment.get_template("card.md").render(
        name=name,
        metadata=Raw(_metadata(name, merge, config, own)),
        merge=merge,
        recipe=Raw(recipe.rstrip()),
        fence=Raw("`" * max([3, *(len(run) + 1 for run in re.findall("`+", recipe))])),
        tasks=tasks,
        tables=[(table.caption, markdown_table(table), table.foot) for table in tables],
        groups=[(table.caption, markdown_table(table)) for table in groups],
        comparison=None if comparison is None else markdown_table(comparison),
        confidence=f"{confidence * 100:.4g} %",
        verdicts=verdicts,
        pictures=[Raw(picture) for picture in pictures],
        results=results if "points" in results else None,
        evaluation=own[0]["evaluation"] if own else None,
        split=lines[0]["split"],
        sizes=_sizes(own),
        warnings=_warnings(own, results),
    )


def _merge(recipe: str) -> dict[str, Any]:
    """What the recipe merges: method, base, groups."""
    if not recipe:
        return {}
    found = parse_yaml(recipe, "the model's recipe")
    parameters = [
        item.get("parameters") or {}
        for item in found.get("models") or ()
        if isinstance(item, Mapping)
    ]
    groups = [str(each["group"]) for each in parameters if "group" in each]
    return {
        "method": str(found.get("merge_method")),
        "base": str(found.get("base_model") or ""),
        "groups": groups,
    }


def _metadata(
    name: str, merge: Mapping[str, Any], config: Mapping[str, Any], own: Sequence[Line]
) -> str:
    """The front matter, by huggingface_hub: with the metrics as a model index."""
    from huggingface_hub import EvalResult, ModelCardData

    architecture = next(iter(config.get("architectures") or ()), "")
    use = next((use for end, use in _USES.items() if architecture.endswith(end)), None)
    found = []
    for evaluation in _evaluations(own):
        for key, (kind, title) in _METRICS.items():
            value = evaluation["metrics"][key]["value"]
            if value is None:
                continue
            result = EvalResult(
                task_type=use or "other",
                dataset_type=evaluation["task"],
                dataset_name=evaluation["task"],
                dataset_split=own[0]["split"],
                metric_type=kind,
                metric_name=title,
                metric_value=round(float(value), 6),
            )
            found.append(result)
    base = merge.get("base", "")
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    data = ModelCardData(
        base_model=base if on_hub else None,
        base_model_relation="merge" if on_hub else None,
        library_name="transformers",
        pipeline_tag=use,
        tags=list(_TAGS),
        model_name=name,
        eval_results=found or None,
    )
    return str(data.to_yaml())


def _evaluations(own: Sequence[Line]) -> list[dict[str, Any]]:
    return [x for line in own for x in (line["evaluation"], *line.get("tasks", {}).values())]


def _sizes(own: Sequence[Line]) -> str:
    """`Female 700, Male 1,300`: nobody else was measured."""
    groups = own[0]["evaluation"]["groups"] if own else {}
    return ", ".join(f"{name} {group['n']:,}" for name, group in groups.items())


def _warnings(own: Sequence[Line], results: Results) -> list[str]:
    found = [str(text) for text in results.get("warnings", ())]
    for evaluation in _evaluations(own):
        found += [f"{evaluation['task']}: {text}" for text in evaluation["warnings"]]
    return list(dict.fromkeys(found))
