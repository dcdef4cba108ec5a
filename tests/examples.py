"""Run worked examples (`>>>`), in documents and docstrings, on any processor.

Texts and integers must be as they stand. Floats may differ by `TOLERANCE`: matrix products and
sums are added in another order by every BLAS kernel, number of threads and AVX level, which moves
the last of 17 digits, while a change of a formula, of a seed or of the order of draws moves the
first ones.
"""

from __future__ import annotations

import doctest
import math
import re
from types import ModuleType

TOLERANCE = 1e-9  # a bootstrap sums some thousand numbers below 1: errors stay below 1e-12
_FLOAT = re.compile(r"[-+]?\b\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)\b")


class NumberChecker(doctest.OutputChecker):
    """Texts exactly, floats to `TOLERANCE`."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        pairs = list(zip(_FLOAT.findall(want), _FLOAT.findall(got), strict=False))
        if all(_is_close(float(a), float(b)) for a, b in pairs):
            want, got = _FLOAT.sub("<float>", want), _FLOAT.sub("<float>", got)
        return super().check_output(want, got, optionflags)


def _is_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def require_examples_hold(test: doctest.DocTest) -> int:
    """Run the examples of one test; how many there were.

    Raises:
        AssertionError: an example prints something else.
    """
    report: list[str] = []
    runner = doctest.DocTestRunner(NumberChecker())
    failed, tried = runner.run(test, out=report.append)
    assert not failed, "".join(report)
    return tried


def examples_of(text: str, name: str) -> doctest.DocTest:
    """The examples of a text, which share one namespace."""
    return doctest.DocTestParser().get_doctest(text, {}, name, name, 0)


def examples_in(module: ModuleType) -> list[doctest.DocTest]:
    """The examples of a module's docstrings, one test an object."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(module, module.__name__) if test.examples]
