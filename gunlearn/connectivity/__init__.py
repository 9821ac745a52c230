"""What lies between two models: paths in weight space, curves of low loss, and figures along them."""

from gunlearn.core.lazy import lazy

_HERE = "gunlearn.connectivity"
_HOMES = {
    f"{_HERE}.alignment": ("AlignedModel", "align_models", "register_layer"),
    f"{_HERE}.ends_of_paths": ("PathEnds", "path_ends"),
    f"{_HERE}.weight_paths": ("WeightPath",),
    f"{_HERE}.path_families": ("WEIGHT_PATHS", "BezierPath", "LinearPath", "PolygonalChain", "make_path"),
    f"{_HERE}.part_losses": ("PartLosses",),
    f"{_HERE}.barriers": ("barrier", "path_summary"),
    f"{_HERE}.path_evaluation": ("PathEvaluation",),
    f"{_HERE}.along_path": ("evaluate_path",),
    f"{_HERE}.connection": ("Connection",),
    f"{_HERE}.dial": ("Dial",),
    f"{_HERE}.door_to_paths": ("connect",),
    f"{_HERE}.mcu": ("MCU",),
    f"{_HERE}.stored_paths": ("load_path", "remove_path", "save_path"),
    f"{_HERE}.curve_settings": ("DRAWS", "CurveSettings"),
    f"{_HERE}.curve_finding": ("find_curve",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
