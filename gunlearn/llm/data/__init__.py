"""Records, rows of token ids, and what to mark in them."""

from __future__ import annotations

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.llm.data.rows": (
        "as_rows",
        "separate",
    ),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
