"""What to forget: requests, and the partition of a graph that a request resolves to."""

from __future__ import annotations

from gunlearn.requests.base import Request, RequestSum
from gunlearn.requests.edges import ForgetEdges
from gunlearn.requests.items import ForgetItems, ItemPartition
from gunlearn.requests.nodes import ForgetFeatures, ForgetGraphs, ForgetNodes, ForgetSubgraph
from gunlearn.requests.partition import Partition
from gunlearn.requests.selection import Selection

__all__ = [
    "ForgetEdges",
    "ForgetFeatures",
    "ForgetGraphs",
    "ForgetItems",
    "ForgetNodes",
    "ForgetSubgraph",
    "ItemPartition",
    "Partition",
    "Request",
    "RequestSum",
    "Selection",
]
