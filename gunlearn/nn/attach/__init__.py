"""Attaching to anybody's model without rewriting it: edges removed, messages scaled, operators after a layer."""

from __future__ import annotations

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.nn.attach.contexts": (
        "after_layer",
        "message_passing_layers",
        "removed_edges",
        "scaled_messages",
        "suspended_caches",
        "ScaledMessages",
    ),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
