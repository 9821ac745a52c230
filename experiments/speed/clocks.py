"""Time of steps and peak memory of phases, on CPU and CUDA."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gunlearn.methods import Callback

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def now(device: str) -> float:
    """Seconds: on a GPU of wall time, after all that was asked of it is done; on CPU those that the process computed.

    With one thread both are the same where the process has a processor for itself; where it has not, waiting for one
    does not count. Waiting for memory does.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    start = now(device)
    result = run()
    return now(device) - start, result


def block(step: Callable[[], Any], steps: int, device: str) -> list[float]:
    """Seconds of each of `steps` steps, after one to warm up."""
    step()
    return [timed(step, device)[0] for _ in range(steps)]


class Memory:
    """Peaks of phases in MiB above what was in use when it was made (libraries); `None` where nothing can be told."""

    def __init__(self, device: str) -> None:
        self.device, self.before = device, 0.0
        self.before = 0.0 if device == "cuda" else self._status("VmRSS") or 0.0
        self.phases: dict[str, float | None] = {}
        self._reset()

    def _status(self, name: str) -> float | None:
        if not _STATUS.is_file():
            return None
        return next(int(s.split()[1]) / 1024 for s in _STATUS.read_text().splitlines() if s.startswith(f"{name}:"))

    def _reset(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        with suppress(OSError):  # a later phase then shows the highest peak so far: too much, never too little
            _CLEAR.write_text("5")

    def read(self, phase: str) -> None:
        """The peak since the last phase ended; a phase that is read again keeps its highest."""
        mb = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else self._status("VmHWM")
        mb = None if mb is None else max(mb - self.before, 0.0)
        known = self.phases.get(phase)
        self.phases[phase] = mb if known is None or mb is None else max(known, mb)

    def end(self, phase: str) -> None:
        self.read(phase)
        self._reset()


class Watch(Callback):
    """Seconds of each step of a run but the first, from the end of a step to the end of the next one.

    So all that a step needs is in it: the stop criterion, sampling, forward, backward, optimiser, records.
    """

    def __init__(self, device: str, memory: Memory | None = None) -> None:
        self.device, self.memory, self.seconds = device, memory, []
        self._start: float | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.memory is not None:
            self.memory.end("setup")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        moment = now(self.device)
        if self._start is not None:
            self.seconds.append(moment - self._start)
        self.on_epoch_begin()
        self._start = now(self.device)

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.memory is not None:  # the loop resets the peak after each event, so each has to read it
            self.memory.read("steps")
