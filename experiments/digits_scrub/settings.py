"""The settings of every row that compares methods, and of the training."""

from typing import Any

#: Training of the original and the retrained models, to a training loss below 1e-3: see the part "convergence".
RECIPE = {"epochs": 30, "lr": 2e-3, "batch_size": 32}
#: The same for labels that must be learned by heart.
BY_HEART = {**RECIPE, "epochs": 150}
#: As in the checks of the specification: small learning rate, no decay, batches of 64 beside 16 to 32.
SCRUB = {
    "lr": 5e-4, "batch_size": 64, "max_grad_norm": float("inf"), "weight_decay": 0.0, "ascent_first": False,
    "mode": "small", "scheduler": "ConstantLR", "scheduler_options": {"factor": 1.0},
}  # fmt: skip
_TUNED = {"batch_size": 64, "lr": 5e-4}
#: Rows of the parts that compare methods: label -> method and options.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", {**_TUNED, "epochs": 10}),
    "l1_sparse": ("l1_sparse", {**_TUNED, "epochs": 10}),
    "gradient_ascent": ("gradient_ascent", {"epochs": 10, "lr": 1e-3}),
    "graddiff": ("graddiff", {**_TUNED, "epochs": 5}),
    "npo": ("npo", {**_TUNED, "epochs": 10}),
    "random_label": ("random_label", {**_TUNED, "epochs": 10}),
    "salun": ("salun", {**_TUNED, "epochs": 10}),
    "bad_teacher": ("bad_teacher", {**_TUNED, "epochs": 10}),
    "ssd": ("ssd", {"alpha": 3.0}),
    "gif": ("gif", {}),
    "imu": ("imu", {}),
    "scrub": ("scrub", {"epochs": 60}),
    "scrub:small": ("scrub:small", {}),
    "scrub_r": ("scrub_r", {"epochs": 60}),
}
CLASS = {
    **METHODS,
    "scrub T=1": ("scrub", {**SCRUB, "temperature": 1.0, "forget_batch_size": 32}),
    "scrub T=2": ("scrub", {**SCRUB, "temperature": 2.0, "forget_batch_size": 32}),
}
_IC = {**SCRUB, "temperature": 1.0, "forget_batch_size": 16}
CONFUSION = {
    **METHODS,
    "scrub:ic_small": ("scrub:ic_small", {}),
    "scrub T=1 alpha=.5": ("scrub", _IC),
    "scrub T=1 alpha=.001": ("scrub", {**_IC, "alpha": 1e-3}),
    "scrub T=1 alpha=.001 msteps=5": ("scrub", {**_IC, "alpha": 1e-3, "max_epochs": 5}),
}
_UP = {**SCRUB, "lr": 1e-3, "forget_batch_size": 16, "epochs": 20}
PRIVACY = {
    "finetune": ("finetune", {"batch_size": 64, "lr": 1e-3, "epochs": 20}),
    "scrub:mia": ("scrub:mia", {}),
    "scrub T=2 msteps=15": ("scrub", {**_UP, "max_epochs": 15}),
    "scrub T=1 msteps=10": ("scrub", {**_UP, "max_epochs": 10, "temperature": 1.0}),
    "scrub_r T=1 msteps=10": ("scrub_r", {**_UP, "max_epochs": 10, "temperature": 1.0}),
}
