"""Alignment of two models' weights before a path between them is judged."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.connectivity.alignment.aligned_model": ("MATCHINGS", "AlignedModel", "align_models"),
    "gunlearn.connectivity.alignment.assignment": ("best_order",),
    "gunlearn.connectivity.alignment.calibration": ("MessageCalibration",),
    "gunlearn.connectivity.alignment.merging": ("merge_in_closed_form",),
    "gunlearn.nn.channels.channel_rules": ("Axes", "LayerRule", "LinearMap", "register_layer"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
