"""Attach to any model without rewriting it: removed edges, scaled messages, operators after a layer."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.nn.attach.contexts": ("ScaledMessages", "after_layer", "removed_edges", "scaled_messages"),
    "gunlearn.nn.attach.message_layers": ("message_passing_layers", "suspended_caches"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
