"""Which axis of a layer's weights is a channel: the table of layers that alignment of models reads."""

from gunlearn.core.lazy import lazy

_HOMES = {"gunlearn.nn.channels.channel_rules": ("Axes", "LayerRule", "LinearMap", "register_layer", "rule_of")}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
