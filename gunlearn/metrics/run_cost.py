"""What a run took."""

from __future__ import annotations

from gunlearn.metrics.base import Figure
from gunlearn.metrics.view import ModelView


class Seconds(Figure):
    """Wall time of the method."""

    name, heading = "seconds", "seconds"
    legend = "wall time of the method, without the training of the model before"
    better, of_run = "lower", True

    def compute(self, view: ModelView) -> float | None:
        return None if view.result is None else getattr(view.result, self.name)

    def spec(self, mean: float) -> str:
        return ".0f" if mean >= 100 else ".1f" if mean >= 1 else ".2g"


class SecondsPerEpoch(Seconds):
    """Wall time of one epoch."""

    name, heading = "seconds_per_epoch", ""
    legend = "mean wall time of an epoch; none for methods without epochs"


class Epochs(Seconds):
    """Optimiser steps."""

    name, heading = "epochs", ""
    legend = "optimiser steps taken"


class PeakMemoryMB(Seconds):
    """Peak memory in MiB."""

    name, heading = "peak_memory_mb", "peak MiB"
    legend = "peak memory of the process while the method ran, model, data and libraries included"

    def cell(self, mean: float, std: float | None) -> str:
        return f"{mean:.0f}"
