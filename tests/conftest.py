"""Fixtures and settings that all tests share."""

import functools
import importlib.util
import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

#: None that a test gives a run: the run would draw the very weights that the test's model has.
SEED = 1_234_567
REPOSITORY = Path(__file__).resolve().parent.parent

# Reproducible runs; no deadline because the first call of a torch function is slow.
settings.register_profile("gunlearn", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("gunlearn")

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Give all workers of `pytest -n` one folder for the models that tests train once, and one owner's key."""
    if "GUNLEARN_TEST_KEY" not in os.environ:  # never the developer's own
        folder = tempfile.mkdtemp(prefix="gunlearn-key-")
        os.environ["GUNLEARN_TEST_KEY"] = os.environ["GUNLEARN_KEY_FILE"] = str(Path(folder) / "key")
        Path(folder, "key").write_text("the key of all tests, the same in every run")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    if "GUNLEARN_TEST_CACHE" not in os.environ:
        folder = os.environ["GUNLEARN_TEST_CACHE"] = tempfile.mkdtemp(prefix="gunlearn-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start every test, and the fixtures that it is the first to need, at one random state in whatever process."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Models that a module builds as it is imported have the same weights whatever was imported before."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(SEED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this environment cannot run."""
    missing = {
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
        "scatter": None if importlib.util.find_spec("torch_scatter") else "needs torch-scatter",
        "network": None if os.environ.get("GUNLEARN_TEST_NETWORK") == "1" else "set GUNLEARN_TEST_NETWORK=1",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@functools.cache
def committed(experiment: str) -> Any:
    """The committed results of an experiment; without them the test is skipped."""
    path = REPOSITORY / "experiments" / experiment / "results.json"
    if not path.is_file():
        pytest.skip(f"{path} is not committed")
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder with PyG's raw files: GUNLEARN_DATA, or ../shared/data beside the repository."""
    named = os.environ.get("GUNLEARN_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"needs the real data sets: set GUNLEARN_DATA (looked in {root})")
    return root


@pytest.fixture(scope="session")
def tofu_root(data_root: Path) -> Path:
    """The same, with TOFU's files in it."""
    if not (data_root / "TOFU").is_dir():
        pytest.skip(f"needs TOFU's files in {data_root / 'TOFU'}")
    return data_root
