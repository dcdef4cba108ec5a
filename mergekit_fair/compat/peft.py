"""What this package uses of peft that peft does not promise to keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def adapter_report() -> Iterator[list[str]]:
    """While open, gathers the tensors of adapters that `PeftModel.from_pretrained` leaves out.

    Private in the combination: `from_pretrained` calls `load_adapter`, whose result says so, and
    reports only what is missing.
    """
    from peft import PeftModel

    real = PeftModel.load_adapter
    unused: list[str] = []

    def load_adapter(self: Any, *arguments: Any, **settings: Any) -> Any:
        report = real(self, *arguments, **settings)
        # peft saves the biases of `modules_to_save` three times.
        unused.extend(key for key in report.unexpected_keys if ".modules_to_save." not in key)
        return report

    with patch.object(PeftModel, "load_adapter", load_adapter):
        yield unused
