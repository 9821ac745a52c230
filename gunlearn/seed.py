"""Seeding that does not change the caller's random state, by one thread at a time."""

import os
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_rng_state() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and torch (CPU and CUDA)."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `get_rng_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


_lock = threading.RLock()
_PATIENCE = 60.0  # seconds


@contextmanager
def alone() -> Iterator[None]:
    """Let one thread of the process at a time into such blocks; a thread may enter further ones inside.

    Random states, modes of modules and what is attached to them belong to the whole process. After a minute of waiting
    there is a warning: inside a block (a callback, a training function) nobody may wait for a thread that wants in.
    """
    lock = _lock
    if not lock.acquire(timeout=_PATIENCE):
        warnings.warn(
            "this thread waits for a run of gunlearn in another thread: runs of one process take turns; start "
            "processes to run side by side, and let no callback wait for another thread",
            UserWarning,
            stacklevel=4,
        )
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _new_lock() -> None:
    """Forget the threads of the parent process."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Seed Python, NumPy and torch inside the block and restore the caller's random state, also after exceptions.

    With `None` the block starts from the current state. Threads enter one at a time (see `alone`), since they share
    these generators; a thread that draws numbers without such a block disturbs them.
    """
    with alone():
        state = get_rng_state()
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)
                torch.manual_seed(seed)
            yield
        finally:
            set_rng_state(state)
