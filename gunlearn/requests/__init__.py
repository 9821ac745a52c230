"""What to forget: requests, and the partition of a graph that a request resolves to."""

from __future__ import annotations

from gunlearn.requests.base import Request, RequestSum
from gunlearn.requests.edges import ForgetEdges
from gunlearn.requests.items import ForgetItems, ItemPartition
from gunlearn.requests.partition import Partition

__all__ = ["ForgetEdges", "ForgetItems", "ItemPartition", "Partition", "Request", "RequestSum"]
