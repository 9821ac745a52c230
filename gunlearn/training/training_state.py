"""What a training leaves behind to go on from: the optimiser's state, and a few checkpoints."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.atomic import write_file
from gunlearn.core.digest import content_hash, state_hash
from gunlearn.core.printable import reason_of
from gunlearn.errors import CheckpointError, InvalidInputError
from gunlearn.training.checkpoint_weights import weights_for
from gunlearn.training.inner_model import inner_model, learning_names
from gunlearn.training.optimizer_state import steps_counted

_FORMAT = "gunlearn training state 1"
_ROUNDED = 1e-6  # of a step
#: What a training may say of how it read its items.
READING = ("batch_size", "sampler", "num_neighbors", "max_grad_norm")
FILE = "training.pt"  # in the folder of a saved result


@dataclass(frozen=True)
class Moment:
    """A model in the middle of its training.

    Args:
        step: optimiser steps taken before it.
        weights: the model's `state_dict`.
        optimizer: the optimiser's `state_dict`.
        rng: state of torch's CPU generator, `uint8`; `None` where it is not known.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class TrainingState:
    """The state of a finished training: with it one can go on, or go back and take the last steps again.

    It was computed from all training data, forgotten items included: keep it as long and as safe as those data.

    Args:
        steps: optimiser steps up to the final weights.
        total: steps of the whole training, which may have gone on; retraining takes as many.
        kind: name of the optimiser's class in `torch.optim`; empty where it is not known.
        optimizer: the optimiser's `state_dict` at the final weights.
        names: of the parameters in the order of the optimiser's groups; empty where they are in the model's order.
        weights: hash of the final weights, so that no other model's state is taken for this one's; empty where unknown.
        reading: how items were read: `batch_size`, `sampler`, `num_neighbors`, `max_grad_norm`.
        rates: learning rates of all steps of the training, `[total, num_groups]`, where they changed, or of its last
            ones alone, where it was resumed and nobody noted the others; `None` where they did not change.
        moments: checkpoints in the order of their steps.
        growth: rate at which the norm of the weights still changed, see `gunlearn.training.settled`, where the
            checkpoints that told it are gone; `None` where it is not known.
        known_loss: the training minimised the task's own loss, as `gunlearn.train` does.
        items: digest of the items that it read, under the owner's key (`gunlearn.training.same_items`); empty where
            nobody noted it.
    """

    steps: int
    total: int
    kind: str
    optimizer: dict[str, Any]
    names: tuple[str, ...] = ()
    weights: str = ""
    reading: dict[str, Any] = field(default_factory=dict)
    rates: Tensor | None = None
    moments: tuple[Moment, ...] = ()
    growth: float | None = None
    known_loss: bool = False
    items: str = ""

    def __repr__(self) -> str:
        """Return a short description; the digest tells states apart."""
        own = content_hash([self.steps, self.optimizer])[:8]
        return f"TrainingState({self.kind or 'optimizer'}, {self.steps} steps, {len(self.moments)} checkpoints, {own})"

    @property
    def kept_at(self) -> int:
        """The step of the training whose weights are the final ones: below `total` where it kept earlier ones.

        Steps before a training was resumed count, too, where the optimiser counts them; those of requests do not.
        """
        return min(steps_counted(self.optimizer) or self.steps, self.total)

    @property
    def knows_all_rates(self) -> bool:
        """Whether `rates` are those of all steps, and not of the part of a training after it was resumed."""
        return self.rates is None or self.rates.size(0) >= self.total

    def check_model(self, model: nn.Module) -> None:
        """Raise `InvalidInputError` if the training ended in other weights than those of `model`."""
        model = inner_model(model)
        if self.weights and state_hash(model) != self.weights:
            raise InvalidInputError(
                "Expected the state of the training that ended in this model's weights (got that of another training, "
                "or the weights changed since); hand in the state of this model's own training, or none"
            )
        own = model.state_dict()
        shapes = {name: value.shape for name, value in own.items()}
        for moment in self.moments:
            weights = weights_for(moment.weights, model)
            differs = sorted(
                name
                for name in {*shapes, *weights}
                if name not in shapes or name not in weights or shapes[name] != weights[name].shape
            )
            if differs:
                raise InvalidInputError(
                    f"Expected checkpoints of this model's training (got one at step {moment.step} with other "
                    f"'{differs[0]}')"
                )
            ended = moment.step == self.steps
            if ended and not all(torch.equal(own[name].cpu(), value.cpu()) for name, value in weights.items()):
                raise InvalidInputError(
                    f"Expected the last checkpoint, at step {moment.step}, to hold this model's weights (got others); "
                    "write one at the end of the training, or hand in the model that it holds"
                )

    def without_rows(self, model: nn.Module, put: Callable[[nn.Module], None]) -> TrainingState:
        """Return the state without what it holds of entries that `put` fills anew, such as rows of forgotten nodes.

        Their moments are set to 0, and checkpoints, which hold them as trained, are dropped.

        Args:
            model: the one that the state belongs to; it does not change.
            put: fills these entries in a copy of it.
        """
        filled = []
        for value in (0.0, 1.0):
            other = copy.deepcopy(model)
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter.fill_(value)
            put(other)
            filled.append(dict(inner_model(other).named_parameters()))
        learns = learning_names(model)
        order = [index for group in self.optimizer["param_groups"] for index in group["params"]]
        entries = dict(self.optimizer["state"])
        for index, name in zip(order, self.names or learns, strict=False):
            anew = (filled[0][name] == filled[1][name]).detach().cpu()
            entries[index] = {
                key: value.masked_fill(anew, 0) if isinstance(value, Tensor) and value.shape == anew.shape else value
                for key, value in entries.get(index, {}).items()
            }
        return replace(self, optimizer={**self.optimizer, "state": entries}, moments=())

    def earliest(self, steps: float) -> Moment | None:
        """Return the checkpoint farthest back, but at most so many steps before the end; `None` if there is none."""
        return min(self._last(steps), key=lambda moment: moment.step, default=None)

    def latest(self, steps: float) -> Moment | None:
        """Return the checkpoint nearest to the end, but at most so many steps before it; `None` if there is none."""
        return max(self._last(steps), key=lambda moment: moment.step, default=None)

    def _last(self, steps: float) -> list[Moment]:
        steps += _ROUNDED  # a share of the steps times the steps may be a little less than it was
        return [moment for moment in self.moments if self.steps - steps <= moment.step < self.steps]

    def to_bytes(self) -> bytes:
        """Return the state as the content of a file, which `from_bytes` reads."""
        plain = {**{f: getattr(self, f) for f in self.__dataclass_fields__}, "moments": [vars(m) for m in self.moments]}
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, "state": plain, "hash": content_hash(plain)}, buffer)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "the file") -> TrainingState:
        """Read what `to_bytes` returned, without running code from it.

        Raises:
            CheckpointError: another file, or one that changed since it was written.
        """
        try:
            read = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            plain = read["state"]
            if read["format"] != _FORMAT or read["hash"] != content_hash(plain):
                raise ValueError("its content has changed since it was written")
            return cls(**{**plain, "moments": tuple(Moment(**moment) for moment in plain["moments"])})
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = reason_of(error)
            raise CheckpointError(f"Expected a saved training state in {name} (got: {reason})") from error

    def save(self, path: str | Path) -> Path:
        """Write one file; see `load`."""
        return write_file(path, self.to_bytes(), private=True)

    @classmethod
    def load(cls, path: str | Path) -> TrainingState:
        """Read what `save` wrote; `CheckpointError` where there is no such file, or another one."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointError(f"Expected a saved training state (got no readable {path})") from error
        return cls.from_bytes(content, str(path))


def on_cpu(value: Any, copied: bool = True) -> Any:
    """Return a state dict on the CPU: a copy, which later steps do not change, or not `copied` where it lies there."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=copied)
    if isinstance(value, Mapping):
        return {key: on_cpu(entry, copied) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(entry, copied) for entry in value)
    return value
