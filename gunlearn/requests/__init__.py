"""Requests name the things to forget and resolve against data to a partition. Names load on first use."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.requests.base": ("Request", "RequestSum"),
    "gunlearn.requests.edges": ("ForgetEdges",),
    "gunlearn.requests.items": ("ForgetItems", "ItemPartition"),
    "gunlearn.requests.nodes": ("ForgetFeatures", "ForgetGraphs", "ForgetNodes", "ForgetSubgraph"),
    "gunlearn.requests.partition": ("Partition",),
    "gunlearn.requests.selection": ("Selection",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
