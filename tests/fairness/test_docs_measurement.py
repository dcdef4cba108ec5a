"""The Python blocks of docs/measurement.md print what the document says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "measurement.md"


def test_python_blocks_print_what_they_say() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    test = doctest.DocTestParser().get_doctest(
        "\n".join(blocks), {}, DOCUMENT.name, str(DOCUMENT), 0
    )
    said: list[str] = []
    failed, tried = doctest.DocTestRunner().run(test, out=said.append)
    assert tried > 10
    assert not failed, "".join(said)
