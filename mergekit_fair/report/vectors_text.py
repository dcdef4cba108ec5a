"""What is known of models before any is run, as text: vectors, a basis, a checked merge."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mergekit_fair.escaping import one_line
from mergekit_fair.report.tables import Table, as_text, value_text

if TYPE_CHECKING:
    from mergekit_fair.purify.purify_results import Purification
    from mergekit_fair.vectors.basis_files import Basis

_MATRICES = (("cosines", "cosine"), ("sign_conflict", "sign conflict"), ("overlap", "overlap"))


def vectors_table(vectors: dict[str, Any]) -> str:
    """Norms, cosines, sign conflict, overlap, what the recipe's λ does, and the order of screening.

    Args:
        vectors: the JSON of `RecipeVectors`.
    """
    parts = [
        one_line(f"{vectors['recipe']}: {vectors['method']}, {len(vectors['names'])} task vectors")
        + f" over {vectors['elements']:,} elements in {vectors['tensors']} tensors",
        _overview(vectors),
        *(f"{title}\n{_matrix(vectors['names'], vectors[key])}" for key, title in _MATRICES),
    ]
    if vectors["at"]:
        parts.append(_move(vectors))
    if vectors["screening"]:
        parts.append(_screening(vectors))
    parts += [f"note: {one_line(note)}" for note in vectors["notes"]]
    return "\n\n".join(parts)


def _overview(vectors: dict[str, Any]) -> str:
    target = vectors["target"]
    ratios, title = vectors["norm_over_median"], "norm/median"
    if target is not None:
        ratios, title = vectors["norm_over_target"], f"norm/{target}"
    rows = []
    for index, name in enumerate(vectors["names"]):
        others = [
            value
            for other, value in enumerate(vectors["cosines"][index])
            if other != index and value is not None
        ]
        cosines = (vectors["cosine_with_mean"][index], min(others, default=None))
        norm = f"{vectors['norms'][index]:.6g}"
        changed = f"{vectors['changed'][index]:.1%}"
        rows.append([name, norm, value_text(ratios[index]), changed, *map(value_text, cosines)])
    titles = ["group", "norm", title, "changed", "cos(mean)", "min cos"]
    return as_text(Table.plain(titles, rows))


def _matrix(names: list[str], values: list[list[float | None]]) -> str:
    rows = [[name, *map(value_text, row)] for name, row in zip(names, values, strict=True)]
    return as_text(Table.plain(["", *names], rows))


def _move(vectors: dict[str, Any]) -> str:
    at = vectors["at"]
    effective = at["lambda_eff"]
    lambdas = ", ".join(f"{name} {value:g}" for name, value in at["lambda"].items())
    head = f"at the recipe's λ ({lambdas})"
    rows: list[list[str]] = []
    for reference, distance in at["from"].items():
        rows.append(
            [f"‖θ − θ_{reference}‖", f"{distance['displacement']:.6g} (≤ {distance['bound']:.6g})"]
        )
    if at["relative_bound"] is not None:
        rows.append(["U(λ)/L", f"{at['relative_bound']:.6g}, relative: it bounds no DPD"])
    titles = ["λ_eff", "–" if effective is None else f"{effective:g}"]
    return f"{head}\n{as_text(Table.plain(titles, rows))}"


def _screening(vectors: dict[str, Any]) -> str:
    titles, rows = ["candidate", f"cos({vectors['target']})", "norm ratio", "sign conflict"], []
    for one in vectors["screening"]:
        numbers = (one["cosine"], one["norm_ratio"], one["sign_conflict"])
        rows.append([one["group"], *map(value_text, numbers), one["relation"] or "–"])
    titles.append("relation")
    head = "screening: an order in which to measure injections, not a verdict on them"
    return f"{head}\n{as_text(Table.plain(titles, rows))}"


def basis_text(basis: Basis) -> str:
    """What a basis keeps of every task's vector, and what is lost."""
    total, count = basis.total, len(basis.vectors)
    mean = ", one of them the mean" if basis.has_mean else ""
    rows = []
    for task, name in enumerate(basis.tasks):
        square = basis.gram[task][task]
        errors = (basis.errors[task], basis.stored_errors[task])
        shares = [f"{(e / square) ** 0.5:.4f}" if square else "–" for e in errors]
        rows.append([name, f"{square**0.5:.6g}", *shares])
    shares = [f"{(sum(e) / total) ** 0.5:.4f}" for e in (basis.errors, basis.stored_errors)]
    rows.append(["all", f"{total**0.5:.6g}", *shares])
    size = basis.bytes
    return "\n".join(
        [
            f"{basis.method.value}: {len(basis.tasks)} task vectors kept as {count}{mean}; "
            f"{size['vectors'] / 1e6:,.1f} MB in place of {size['tasks'] / 1e6:,.1f} MB",
            as_text(Table.plain(["task", "norm", "error", "as stored"], rows)),
            f"error: ‖Δ − v̂‖ / ‖Δ‖; no {count} vectors have less than "
            f"{(basis.bound / total) ** 0.5:.4f} in all",
        ]
    )


def purification_text(result: Purification) -> str:
    """What every purified model keeps, in the mean of its layers."""
    titles, rows = ["model", "rows", "layers", "ranks kept", "energy", "error"], []
    for name, model in result.models.items():
        layers = model.layers
        share = sum(each.rank for each in layers) / max(1, sum(each.full_rank for each in layers))
        means = (_mean(each.energy for each in layers), _mean(each.error for each in layers))
        row = [one_line(name), f"{model.rows:,}", str(len(layers)), f"{share:.3f}"]
        rows.append([*row, *map(value_text, means)])
    notes = dict.fromkeys(note for model in result.models.values() for note in model.notes)
    return "\n".join(
        [
            f"{result.of}, ranks {result.allocate}; base {one_line(result.base)}",
            as_text(Table.plain(titles, rows)),
            "error: ‖X(Δ − Δ')ᵀ‖ / ‖XΔᵀ‖ on these rows, in the mean of layers",
            *(one_line(note) for note in notes),
        ]
    )


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def check_text(merge: dict[str, Any]) -> str:
    """What a merge would read and write.

    Args:
        merge: the JSON of a dry run.
    """
    lines = [one_line(f"{merge['recipe']}: {merge['method']}, {merge['engine']}")]
    lines += [f"  model         {one_line(model)}" for model in merge["models"]]
    lines += [f"  note          {one_line(note)}" for note in merge["notes"]]
    lines += [f"  warning       {one_line(warning)}" for warning in merge["warnings"]]
    if "tensors" not in merge:
        keys = "The" if merge["warnings"] else "The keys are good; the"
        return "\n".join([*lines, f"  {keys} rest is mergekit's to check."])
    tensors, files = merge["tensors"], merge["files"]
    lines += [
        f"  architecture  {merge['architecture']}; loads {merge['loads']}",
        f"  tensors       {tensors['merged']} merged, {tensors['copied']} copied",
        f"  reads         {_size(merge['bytes_read'])}",
        f"  writes        {_size(merge['bytes_written'])} in {len(files)} "
        f"file{'s' * (len(files) != 1)}",
        f"  memory        {_size(merge['memory_bytes'])} beside the process itself",
    ]
    norms = merge["norms"] or {}
    lines += [f"  norm          {norm:.6g}  {one_line(model)}" for model, norm in norms.items()]
    return "\n".join(lines)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
