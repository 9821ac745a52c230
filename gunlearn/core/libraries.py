"""Which classes and functions are of a library, and which of the caller's own code."""

from typing import Any

#: Packages whose code their version tells, and which know no data of the caller's.
LIBRARIES = (
    *("torch", "torch_geometric", "gunlearn", "builtins", "abc", "typing", "collections", "functools", "inspect"),
    *("numpy", "scipy", "networkx", "pandas", "lightning", "pytorch_lightning"),
)


def is_own(thing: Any) -> bool:
    """Return whether a class or function is of none of the `LIBRARIES`."""
    return is_own_module(str(getattr(thing, "__module__", "")))


def is_own_module(name: str) -> bool:
    """Return whether a module of this name is of none of the `LIBRARIES`."""
    return name.partition(".")[0] not in LIBRARIES
