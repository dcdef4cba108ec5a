"""What all tests share: quiet libraries, no network, tiny real checkpoints, the shared data."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Before transformers is imported: no test may reach for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Of several processes, each has one processor (`make test`).
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# Threads that wait do not spin: on a shared machine they would hold up those that compute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No test may leave anything in the user's cache, nor find something there.
_CACHE = tempfile.TemporaryDirectory(prefix="mergekit-fair-tests-")
os.environ["MERGEKIT_FAIR_CACHE"] = _CACHE.name

REDDITBIAS = Path(__file__).parents[2] / "shared" / "data" / "redditbias" / "redditbias.csv"


@pytest.fixture(autouse=True)
def _shared_data(request: pytest.FixtureRequest) -> None:
    """Tests marked `shared` need the real data beside the checkout; CI always has it."""
    if request.node.get_closest_marker("shared") and not REDDITBIAS.is_file():
        if os.environ.get("CI"):
            pytest.fail(f"{REDDITBIAS} is missing; CI must have it")
        pytest.skip(f"no real data beside the checkout ({REDDITBIAS})")


@pytest.fixture(scope="session")
def redditbias() -> Path:
    return REDDITBIAS


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.yml` and the tiny family trained from it in `run/`."""
    import tiny

    from mergekit_fair.progress import Silent
    from mergekit_fair.training.family import train
    from mergekit_fair.training.train_config import load_train_config

    folder = tmp_path_factory.mktemp("family")
    config = load_train_config(tiny.write_training(folder, checkpoints=[0.5]))
    train(config, folder / "run", Silent(), "cpu")
    return folder


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`many("classes")`, `many("labels")`: a folder as `family`, its groups' models adapters."""
    import tiny

    from mergekit_fair.progress import Silent
    from mergekit_fair.training.family import train
    from mergekit_fair.training.train_config import load_train_config

    @cache
    def trained(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        tiny.write_encoder(folder / "encoder", dropout=0)  # so few dimensions learn little with it
        csv = tiny.write_speech(folder / "speech.csv")
        block = {"classes": tiny.classes_block, "labels": tiny.labels_block}[kind](csv)
        subgroups = {"method": "lora", "keep": "adapter", "min_rows": 20}
        training = {"learning_rate": 1e-3, "epochs": 2}
        file = tiny.write_training(folder, data=block, training=training, subgroups=subgroups)
        train(load_train_config(file), folder / "run", Silent(), "cpu")
        return folder

    return trained


@pytest.fixture(scope="session")
def swept(family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sweep.yml` over the family, and its results in `out/`."""
    import tiny

    from mergekit_fair.progress import Silent
    from mergekit_fair.sweep.runner import run_sweep
    from mergekit_fair.sweep.sweep_config import load_sweep

    folder = tmp_path_factory.mktemp("sweep")
    sweep = load_sweep(tiny.write_sweep(family, folder / "sweep.yml"))
    run_sweep(sweep, folder / "out", Silent())
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`tiny("bert")` → its `Family` of tiny checkpoints, written at the first call; read only."""
    from checkpoints import Family, tiny_family

    made: dict[str, Family] = {}

    def family(architecture: str) -> Family:
        if architecture not in made:
            made[architecture] = tiny_family(tmp_path_factory.mktemp(architecture), architecture)
        return made[architecture]

    return family
