"""Where the state of a training may come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from torch.optim import Optimizer

from gunlearn.errors import CheckpointError, InvalidInputError, InvalidTypeError
from gunlearn.training.own_checkpoints import read_checkpoints
from gunlearn.training.result import RECORD
from gunlearn.training.training_state import FILE, TrainingState

NONE = "none"
#: What was read of folders and files as they were, while somebody uses it.
_in_use: WeakValueDictionary[tuple[Any, ...], TrainingState] = WeakValueDictionary()
_WITHOUT = (
    "Expected a result with the state of its training (got one without: trained with keep_state=False, unlearned by a "
    "method that does not go on with it or without knowing its steps, or saved)"
)


def as_training_state(source: Any) -> TrainingState | None:
    """Return the training state in a `Result` of `gunlearn.train`, in a file or folder of a saved one, or itself.

    A user's own checkpoints, a folder or one file, are read by `gunlearn.training.own_checkpoints.read_checkpoints`.

    `"none"` is `None`, and keeps grids from handing in the state of their base model.

    Raises:
        InvalidInputError: a result without training state.
        InvalidTypeError: something else.
        CheckpointError: no such file, or another one.
    """
    if source is None or source == NONE or isinstance(source, TrainingState):
        return source if isinstance(source, TrainingState) else None
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() and not (path / FILE).exists():
            if (path / RECORD).exists():
                raise InvalidInputError(f"{_WITHOUT}; {path} holds none")
            return _of_checkpoints(path)
        return _of_file(path / FILE if path.is_dir() else path)
    if isinstance(source, Optimizer | Mapping):
        raise InvalidTypeError(
            f"Expected 'training' to be the state of a training with its checkpoints (got {type(source).__name__}); "
            "hand an optimiser, or its state_dict, to method 'continued_training' or 'auto' as optimizer=; of a "
            "checkpoint in a file hand in the path"
        )
    if not hasattr(source, "training") or not hasattr(source, "method"):
        raise InvalidTypeError(
            f"Expected 'training' to be what gunlearn.train returned, its 'training', or a folder that it was saved to "
            f"(got {type(source).__name__}); for a training loop of your own see gunlearn.KeepState"
        )
    if source.training is None:
        raise InvalidInputError(_WITHOUT)
    return source.training


def _of_checkpoints(path: Path) -> TrainingState:
    """Read a user's own checkpoints, once while the state is in use and the files stay as they are."""
    files = sorted(file for file in (path, *path.glob("*"), *path.glob("*/*")) if file.is_file())
    key = path.resolve(), tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    state = _in_use.get(key)
    if state is None:
        state = _in_use[key] = read_checkpoints(path)
    return state


def _of_file(path: Path) -> TrainingState:
    """Read a saved state, or one checkpoint of a user's own as the end of its training."""
    try:
        return TrainingState.load(path)
    except CheckpointError as error:
        if path.name == FILE or not path.is_file():
            raise
        try:
            return _of_checkpoints(path)
        except CheckpointError as other:
            raise CheckpointError(f"{error}, or a checkpoint of your own: {other}") from other
