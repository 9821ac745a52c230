"""Every training run collects garbage; what was imported is none, and searching it would take most of the time."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage() -> None:
    """For each file anew: tests of the one before have imported more."""
    gc.collect()
    gc.freeze()
