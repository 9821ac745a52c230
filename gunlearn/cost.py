"""Wall time and peak memory of a piece of work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """Wall time in seconds from a given start, without pauses for other work (curves, checkpoints, progress)."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._total = seconds
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._total + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside the block."""
        self._total, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.perf_counter()


class PeakMemory:
    """Peak memory since construction, in MiB, without that inside `paused`; `None` where it cannot be measured.

    On CUDA it is the allocator's peak. On Linux it is the peak resident set of the process, with model, data and
    libraries; it needs a writable `/proc/self/clear_refs`.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._works, self._before = True, 0.0
        self._reset()

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            _CLEAR.write_text("5")
        except OSError:
            self._works = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the memory inside the block."""
        self._before = self.mb or 0.0
        try:
            yield
        finally:
            self._reset()

    @property
    def mb(self) -> float | None:
        """Peak so far, in MiB."""
        if self.device.type == "cuda":
            return max(torch.cuda.max_memory_allocated(self.device) / 2**20, self._before)
        lines = _STATUS.read_text().splitlines() if self._works else []
        peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
        return max(*peaks, self._before) if peaks else None
