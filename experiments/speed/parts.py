"""What a step of ours is made of: seconds by torch's profiler, and the bytes of `bound.py`, by kind of pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch.profiler import ProfilerActivity, profile, record_function

from experiments.speed.bound import Sizes, passes
from experiments.speed.clocks import now
from gunlearn.losses import Loss
from gunlearn.methods import Callback
from gunlearn.nn.kernels.edge_scores import EdgePattern
from gunlearn.tasks.graph.negatives import NegativeSampler

#: Kinds of passes, and how the names of those in `bound.py` that belong to them begin or end.
KINDS: dict[str, Callable[[str], bool]] = {
    "features": lambda name: name.endswith(("X W1", "X^T dH")),
    "adjacency": lambda name: ": A " in name,
    "dense": lambda name: name.endswith(("H W2", "dW2 and dH")),
    "scores": lambda name: "scores" in name and not name.startswith("losses"),
    "losses": lambda name: name.startswith(("losses", "topological")),
    "negatives": lambda name: name == "negatives: draw and look up",
    "bias, ReLU": lambda name: "ReLU" in name,
    "Adam": lambda name: name == "Adam",
}
#: Functions whose time is theirs, whatever they call.
_OWN = {"negatives": (NegativeSampler, "sample"), "scores": (EdgePattern, "_sorted"), "losses": (Loss, "__call__")}
#: The same by the names of profiled events.
_EVENTS = {
    "_InnerProduct": "scores", "_InnerProductBackward": "scores", "IndexBackward0": "scores",
    "ReluBackward0": "bias, ReLU", "LogSigmoidBackward0": "losses",
    "Optimizer.step#Adam.step": "Adam", "torch::autograd::AccumulateGrad": "Adam",
}  # fmt: skip


@contextmanager
def marked() -> Iterator[None]:
    """Inside the block these functions appear in profiles under their kind."""
    with ExitStack() as stack:
        for kind, (owner, name) in _OWN.items():
            stack.enter_context(patch.object(owner, name, _recorded(getattr(owner, name), f"kind: {kind}")))
        yield


def _recorded(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return run


class Profile:
    """Profiles a block of steps; `seconds` of one step by kind, "rest" for what no kind claims (Python, memory)."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self.seconds = sizes, dict.fromkeys([*KINDS, "rest"], 0.0)
        self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def end(self, spent: float, wall: float, steps: int) -> None:
        """Add up the events of `steps` steps that took `wall` seconds, `spent` of them computing.

        Events are timed on the wall, waiting for a processor included, so that their shares alone count.
        """
        for event in self.profile.events():
            if event.is_async or event.name.startswith("ProfilerStep"):
                continue
            self.seconds[self._kind(event)] += event.self_cpu_time_total / 1e6 / steps
        known = sum(self.seconds.values())
        self.seconds["rest"] += max(wall / steps - known, 0.0)
        self.seconds = {kind: s * spent / steps / max(wall / steps, known) for kind, s in self.seconds.items()}

    def _kind(self, event: Any) -> str:
        own = self._by_shape(event)
        above = event
        while above is not None:
            name = above.name.removeprefix("autograd::engine::evaluate_function: ")
            if name.startswith("kind: "):
                return name.removeprefix("kind: ")
            if name in _EVENTS:
                return _EVENTS[name]
            above = above.cpu_parent
        return own

    def _by_shape(self, event: Any) -> str:
        """Return the kind of a product or an elementwise sweep from the shapes of what it reads."""
        s, shapes = self.sizes, [tuple(shape) for shape in event.input_shapes or () if shape]
        if event.name in ("aten::mm", "aten::addmm"):
            if any(s.features in shape for shape in shapes):
                return "features"
            return "adjacency" if (s.nodes, s.nodes) in shapes else "dense"
        rows = [shape for shape in shapes if shape[:1] == (s.nodes,) and shape[1:] in ((s.hidden,), (s.out,))]
        if rows and event.name in (
            "aten::add_",
            "aten::add",
            "aten::clamp_min_",
            "aten::sum",
            "aten::threshold_backward",
        ):
            return "bias, ReLU"
        if event.name == "aten::copy_" and any(s.features in shape for shape in shapes):
            return "features"
        pairs = {s.forget, s.retain, s.forget + s.retain, 2 * s.retain, 2 * s.retain + s.forget}
        if any(shape[0] in pairs for shape in shapes):
            return "losses"
        return "rest"


class Profiled(Callback):
    """Profiles steps of a run, the first two excepted."""

    def __init__(self, seen: Profile, steps: int) -> None:
        self.seen, self.steps, self.done = seen, steps, 0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.done += 1
        if self.done == 2:
            self.seen.profile.start()
            self.start = now("cpu"), time.perf_counter()
        elif self.done == 2 + self.steps:
            spent, wall = now("cpu") - self.start[0], time.perf_counter() - self.start[1]
            self.seen.profile.stop()
            self.seen.end(spent, wall, self.steps)


def mebibytes(sizes: Sizes, mode: str, cache: float) -> dict[str, float]:
    """What each kind must move."""
    moved = dict.fromkeys([*KINDS, "rest"], 0.0)
    for one in passes(sizes, mode):
        kind = next((kind for kind, is_one in KINDS.items() if is_one(one.name)), "rest")
        moved[kind] += one.bytes(cache) / 2**20
    return moved
