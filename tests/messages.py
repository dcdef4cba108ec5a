"""Every sentence that the package can say, in one golden file that a person reads in a diff.

    make messages                   # or: python tests/messages.py; writes tests/messages.txt

The code is read, not run: the file is complete whatever tests run, in whatever order. Of an error
it holds the text as `FairError` puts it together, with `{…}` in place of values; what these are is
the business of the tests, which assert type and fields (`refusals.raises`). Below the errors of a
module stand its other sentences: warnings, notes and hints that are put together elsewhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mergekit_fair
from mergekit_fair import errors

PACKAGE = Path(mergekit_fair.__file__).parent
GOLDEN = Path(__file__).with_name("messages.txt")
# Errors of ours, and those that become one: pydantic's validators raise ValueError, click's
# parameters call `fail`.
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
OTHERS = {"ValueError", "InputError", "UsageError", "BadParameter", "ClickException", "fail"}
# Fewer words are a name, a key or a heading.
WORDS = 3


def all_messages() -> str:
    """The golden file's text."""
    modules = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    constants = {name: _assigned(code.body) for name, code in modules.items()}
    sections = []
    for name, code in modules.items():
        known = {}
        for node in ast.walk(code):
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = constants.get(node.module.removeprefix("mergekit_fair."), {})
                known |= {alias.name: inside.get(alias.name, []) for alias in node.names}
        if lines := list(_Module(code, known | constants[name]).lines()):
            sections.append("\n".join([f"## {name}", *lines]))
    return "\n\n".join(sections) + "\n"


class _Module:
    """The messages of one module; `constants` are the texts that names of it stand for."""

    def __init__(self, code: ast.Module, constants: dict[str, list[ast.AST]]) -> None:
        self._code = code
        self._names = constants
        self._seen = set(_docstrings(code))

    def lines(self) -> Iterator[str]:
        """First the errors, by function, then all else that reads like a sentence."""
        for function in [*_of_kind(self._code, ast.FunctionDef), self._code]:
            names = self._names | _assigned(ast.walk(function))
            for call in _of_kind(function, ast.Call):
                kind = ast.unparse(call.func).rpartition(".")[2]
                if call not in self._seen and kind in OURS | OTHERS:
                    self._seen.update(ast.walk(call))
                    text = self._error(call, names, is_ours=kind in OURS)
                    yield f"{getattr(function, 'name', '')} {kind}: {text}".lstrip()
        for node in _of_kind(self._code, ast.Constant, ast.JoinedStr):
            if node not in self._seen and _is_text(node):
                self._seen.update(ast.walk(node))
                text = _Text({}).of(node)
                if len(re.findall(r"(?<!\S)\W*[^\W\d_]+\W*(?!\S)", text)) >= WORDS:
                    yield f"  {text}"

    def _error(self, call: ast.Call, names: dict[str, list[ast.AST]], *, is_ours: bool) -> str:
        """The text as FairError puts it together."""
        text = _Text(names)
        problem = text.of(call.args[0]) if call.args else "{…}"
        if not is_ours:
            return problem
        fields = {field.arg: text.of(field.value) for field in call.keywords if field.arg}
        where, fix = (fields.get(name, "None") for name in ("where", "fix"))
        for name in ("got", "allowed"):
            if fields.get(name, "None") != "None":
                problem += f"; {name}{':' * (name == 'allowed')} {fields[name]}"
        where, fix = (None if field == "None" else field for field in (where, fix))
        return str(errors.FairError(problem, where=where, fix=fix))


class _Text:
    """An expression as text: literals as they are, `{…}` for values."""

    def __init__(self, names: dict[str, list[ast.AST]]) -> None:
        self._names = names

    def of(self, node: ast.AST) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value).replace("\n", "\\n")
        if isinstance(node, ast.JoinedStr):
            return "".join(self.of(part) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            text = self.of(node.value)
            return f"'{text}'" if node.conversion == ord("r") else text
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.of(node.left) + self.of(node.right)
        if isinstance(node, ast.IfExp):
            return self._one_of([node.body, node.orelse])
        if isinstance(node, ast.Name) and self._names.get(node.id):
            # A name that stands for itself must not be asked again.
            inner = _Text({name: t for name, t in self._names.items() if name != node.id})
            return inner._one_of(self._names[node.id])
        return f"{{{_short(node)}}}"

    def _one_of(self, nodes: list[ast.AST]) -> str:
        texts = list(dict.fromkeys(self.of(node) for node in nodes))
        return texts[0] if len(texts) == 1 else f"({' | '.join(texts)})"


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.AST]]:
    """Name → the texts assigned to it; nothing of a name that is also assigned something else."""
    found: dict[str, list[ast.AST]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return {name: values for name, values in found.items() if all(map(_is_text, values))}


def _of_kind(code: ast.AST, *kinds: type[Any]) -> list[Any]:
    """The nodes of these kinds in the order of the code."""
    nodes: list[Any] = [node for node in ast.walk(code) if isinstance(node, kinds)]
    return sorted(nodes, key=lambda node: (node.lineno, node.col_offset))


def _docstrings(code: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(code):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) and _is_text(node.orelse)
    is_constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_constant or isinstance(node, ast.JoinedStr)


def _short(node: ast.AST) -> str:
    """A value's name; the same by every version of Python."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr.lstrip("_")
    if isinstance(node, ast.Call):
        name = _short(node.func)
        inner = _short(node.args[0]) if name in ("int", "len", "list", "sorted") else "…"
        return inner if name in ("int", "list", "sorted") and inner != "…" else f"{name}({inner})"
    if isinstance(node, ast.Subscript):
        key = getattr(node.slice, "value", None)
        return key if isinstance(key, str) else _short(node.value)
    return "…"


if __name__ == "__main__":
    GOLDEN.write_text(all_messages(), encoding="utf-8")
