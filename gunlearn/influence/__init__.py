"""Influence estimators: how much a model's outputs depend on an edge or a node."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from gunlearn.influence.nora import edge_scores, min_max, nora

__all__ = ["edge_scores", "min_max", "nora"]


class _CallableModule(ModuleType):
    """Importing it binds `gunlearn.influence` to this package, so that the package must also be `api.influence`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `gunlearn.api.influence`."""
        from gunlearn.api import influence

        return influence(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
