"""Records, rows of token ids, and what to mark in them."""

from gunlearn.core.lazy import lazy

__all__ = ["as_rows", "separate"]
__getattr__, __dir__ = lazy(__name__, {"gunlearn.llm.data.rows": __all__})
