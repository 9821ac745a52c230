"""Time, epochs and memory of a run."""

from gunlearn.metrics.base import Figure
from gunlearn.metrics.view import ModelView


class Seconds(Figure):
    """Wall time of the method, without the training of the model before."""

    name, heading, better, of_run = "seconds", "seconds", "lower", True

    def compute(self, view: ModelView) -> float | None:
        return None if view.result is None else getattr(view.result, self.name)

    def spec(self, mean: float) -> str:
        return ".0f" if mean >= 100 else ".1f" if mean >= 1 else ".2g"


class SecondsPerEpoch(Seconds):
    """Mean wall time of an epoch; none for methods without epochs."""

    name, heading = "seconds_per_epoch", ""


class Epochs(Seconds):
    """Epochs that the method ran."""

    name, heading = "epochs", ""


class PeakMemoryMB(Seconds):
    """Peak memory of the process while the method ran, model, data and libraries included."""

    name, heading = "peak_memory_mb", "peak MiB"

    def cell(self, mean: float, std: float | None) -> str:
        return f"{mean:.0f}"
