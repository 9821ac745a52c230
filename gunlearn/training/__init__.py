"""THE loop: base models, retraining and every optimised method run through it. Names load on first use."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.training.callbacks": ("Callback", "EarlyStopping", "StatefulCallback", "TrainControl", "TrainState"),
    "gunlearn.training.from_scratch": ("reset_model", "train_from_scratch"),
    "gunlearn.training.loop": ("TrainArguments", "fit"),
    "gunlearn.training.result": ("Result",),
    "gunlearn.training.run": ("run_training",),
    "gunlearn.training.sophia": ("SophiaG",),
    "gunlearn.training.super_loss": ("SuperLoss", "super_loss_weights", "with_curriculum"),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
