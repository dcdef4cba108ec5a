"""Every shape on every family, measured: about ten minutes.

python tests/published/all_families.py     # writes all_families.yml, which the document shows
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import yaml
from lab import FAMILIES, build
from outcomes import compare
from shapes import SHAPES

FILE = Path(__file__).with_name("all_families.yml")


def main() -> None:
    """Family → verdict → number of shapes; adapters exist for one family only."""
    counts: dict[str, dict[str, int]] = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(build(Path(folder), family))
            verdicts: Counter[str] = Counter()
            for index, shape in enumerate(SHAPES):
                if (Path("lab") / "lora").is_dir() or "lab/lora" not in shape.recipe:
                    out = Path(folder) / str(index)
                    out.mkdir()
                    verdicts[compare(shape.recipe, out, {}).verdict] += 1
            counts[family] = dict(sorted(verdicts.items()))
    FILE.write_text(yaml.safe_dump(counts, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
