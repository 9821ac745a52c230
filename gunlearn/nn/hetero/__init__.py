"""Conversion of heterogeneous models and graphs to one type."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.nn.hetero.conversion": ("homogeneous",),
    "gunlearn.nn.hetero.wrapper": ("HeteroWrapper",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
