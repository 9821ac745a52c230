"""Settings of SCRUB by mode: ours, and those of the authors' notebooks (github.com/meghdadk/SCRUB)."""

from typing import Any

_DEFAULT = {
    "epochs": 100, "optimizer": "adam", "lr": 2e-3, "weight_decay": 0.0, "max_grad_norm": 1.0, "temperature": 1.0,
    "alpha": 0.5, "gamma": 1.0, "max_epochs": 3, "max_steps": 5, "min_steps": 5, "ascent_first": True,
}  # fmt: skip
# Two of the notebooks. Full steps over all items stand for the batches of an epoch.
_PAPER = {
    **_DEFAULT, "epochs": 172, "lr": 5e-4, "weight_decay": 0.1, "max_grad_norm": None, "temperature": 2.0,
    "max_steps": 4, "min_steps": 16, "ascent_first": False,
    "scheduler": "MultiStepLR", "scheduler_options": {"milestones": [92, 140, 156], "gamma": 0.1},  # epochs 5, 8 and 9
}  # fmt: skip
_PAPER_LARGE = {
    **_PAPER, "epochs": 56, "optimizer": "SGD", "optimizer_options": {"momentum": 0.9}, "temperature": 4.0,
    "alpha": 1e-3, "gamma": 0.99, "max_epochs": 2, "weight_decay": 5e-4, "scheduler": None, "scheduler_options": None,
}  # fmt: skip

# The notebooks in batches: `max_steps` and `min_steps` stay None, a pass over the items of each part.
_ADAM = {
    "optimizer": "adam", "lr": 5e-4, "weight_decay": 0.1, "max_grad_norm": None, "gamma": 1.0, "alpha": 0.5,
    "temperature": 2.0, "ascent_first": False, "batch_size": 32, "forget_batch_size": 64,
}  # fmt: skip
_SGD = {**_ADAM, "optimizer": "SGD", "optimizer_options": {"momentum": 0.9}, "weight_decay": 5e-4}
NOTEBOOKS: dict[str, dict[str, Any]] = {
    "small": {**_ADAM, "max_epochs": 3, "epochs": 10},
    "large": {
        **_SGD, "gamma": 0.99, "alpha": 1e-3, "temperature": 4.0, "max_epochs": 2, "epochs": 3, "batch_size": 128,
        "forget_batch_size": 32,
    },
    "ic_small": {**_ADAM, "gamma": 99.0, "alpha": 0.01, "max_epochs": 2, "epochs": 10, "forget_batch_size": 32},
    "ic_large": {
        **_SGD, "alpha": 0.01, "max_epochs": 2, "epochs": 10, "batch_size": 128, "forget_batch_size": 32,
    },
    "mia": {**_SGD, "temperature": 4.0, "max_epochs": 3, "epochs": 5, "forget_batch_size": 16},
}  # fmt: skip
#: Epochs after which the learning rate falls to a tenth.
DECAYS: dict[str, tuple[int, ...]] = {"small": (5, 8, 9), "ic_large": (7, 10, 10)}
MODES: dict[str, dict[str, Any]] = {"default": _DEFAULT, "paper": _PAPER, "paper_large": _PAPER_LARGE, **NOTEBOOKS}
