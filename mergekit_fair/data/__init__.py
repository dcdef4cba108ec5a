"""Data: a YAML block becomes rows with a text or an image, a 0/1 label, groups and a split.

    load_spec   YAML file or mapping → `DataSpec`, checked before any data is read
    load_rows   `DataSpec` → `Rows`, the same for training and for evaluation

The walk of a row: its table (`table`) → does it count, and its input (`load`, `images`) → its label
(`label_column`), groups (`group_columns`) and split, leaks between splits (`splits`), weight
(`weight_column`) → `Rows` (`rows`, put together in `load`). `blocks` and `description` are the
YAML.
"""

from mergekit_fair.data.description import DataSpec, load_spec, spec_inside
from mergekit_fair.data.load import load_rows, rows_kept
from mergekit_fair.data.rows import Rows
from mergekit_fair.data.table import package_file, source_fingerprint

__all__ = [
    "DataSpec",
    "Rows",
    "load_rows",
    "load_spec",
    "package_file",
    "rows_kept",
    "source_fingerprint",
    "spec_inside",
]
