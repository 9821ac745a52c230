"""Callbacks of this package as those of transformers."""

from typing import Any

from transformers import TrainerCallback


def as_trainer_callback(callback: Any) -> TrainerCallback:
    """Return a callback of this package, such as `KeepState`, as one of transformers; leave those unchanged."""
    if isinstance(callback, TrainerCallback):
        return callback
    adapted = TrainerCallback()
    adapted.__dict__.update({name: getattr(callback, name) for name in dir(callback) if name.startswith("on_")})
    return adapted
