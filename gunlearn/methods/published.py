"""One table of published settings per task: options that differ from the defaults of a method's class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import Loss, Objective, as_objective
from gunlearn.methods import METHODS
from gunlearn.methods.any_task.baselines import OwnObjective
from gunlearn.methods.base import Method
from gunlearn.tasks.base import Task
from gunlearn.training.optimizers import makes_its_own
from gunlearn.training.resumed_optimizer import check_one_optimizer

#: Its schedule is not our default: results say so, see `Settings.differences`.
_OPEN_UNLEARNING = "configuration of open-unlearning; its batch and warm-up with batch_size=32, warmup_steps=0.1"
_OURS = "none at hand; those of the other methods"
_PAPER = "the paper's, for adapters (rank 256, blocks 4 to 7: `obliviate_settings`)"
_TRAINING = "the training's own: hand in its state, training=FOLDER"
_ROWS = {"epochs": 10, "lr": 1e-5, "optimizer": "adamw", "weight_decay": 0.01, "max_grad_norm": 1.0}


@dataclass(frozen=True)
class Settings:
    """Settings of one method for one task.

    Args:
        adapter_lr: learning rate for adapters; `None` is ten times `lr`.
        source: where the settings come from.
        batch: forgotten rows per step there; `None` where it is not known.
        warmup: epochs of warm-up there.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    adapter_lr: float | None = None
    source: str = _OPEN_UNLEARNING
    batch: int | None = None
    warmup: float = 0.0

    def rate(self, adapter: bool) -> float | None:
        """Return the learning rate for all parameters, or for an adapter; `None` leaves it to the method's class."""
        rate = self.options.get("lr")
        return rate if rate is None or not adapter else self.adapter_lr or 10 * rate

    def differences(self, used: Mapping[str, Any], batch: int, warmup: int, steps_per_epoch: int) -> list[str]:
        """Return in words what a run does otherwise than the published one.

        `used` are the options of the run's method, `batch` its forgotten rows per step, `warmup` its steps of warm-up.
        """
        out = [f"{k}={used[k]!r} ({v!r} there)" for k, v in self.options.items() if k in used and used[k] != v]
        if self.batch is not None and batch != self.batch:
            out.append(f"{batch} rows per step ({self.batch} there)")
        if self.batch is not None and warmup != round(self.warmup * steps_per_epoch):
            out.append(f"{warmup} steps of warm-up (there an epoch, {steps_per_epoch} steps)")
        return out


_SALUN = "SalUn's for CIFAR-10; its alpha is 3.1 for means over pixels"
_MEASURED = "ours, on digits and Fashion-MNIST (`experiments/digits_scrub`, `fashion_scrub`)"
_LATENT = {"lr": 1e-5, "batch_size": 32, "epochs": 5, "max_grad_norm": 1.0}


def _latent(source: str = _OURS, **options: Any) -> Settings:
    return Settings({**_LATENT, **options}, source=source)


def _images(steps: int, **options: Any) -> Settings:
    """Return settings in steps, not passes: as many of a batch as of all items at once."""
    return Settings({"steps": steps, **options}, source=_MEASURED)


def _rows(source: str = _OPEN_UNLEARNING, adapter_lr: float | None = None, **options: Any) -> Settings:
    schedule = (32, 1.0) if source == _OPEN_UNLEARNING else (None, 0.0)
    return Settings({**_ROWS, **options}, adapter_lr, source, *schedule)


#: By task, then by `"method"` or `"method:variant"`.
PUBLISHED: dict[str, dict[str, Settings]] = {
    "causal_lm": {
        "auto": Settings(source="those of the method that it takes, see `experiments/smollm`"),
        "gradient_ascent": _rows(),
        "graddiff": _rows(),
        "npo": _rows(beta=0.1),
        "simnpo": _rows(),
        "dpo": _rows(),
        "kto": _rows(_OURS),
        "wga": _rows(),
        "satimp": _rows(),
        "undial": _rows(lr=1e-4),
        "ce_unlearning": _rows(),
        "ihl": _rows(_OURS),
        "jensun": _rows(_OURS),
        "rmu": _rows(),
        "pdu": _rows(),
        "dto": _rows(_OURS),
        "influence_ascent": _rows(_OURS),
        "obliviate": _rows(_PAPER, 3e-4, lr=3e-5, epochs=4),
        "finetune": _rows("none at hand; one pass over the retained rows", epochs=1),
        "task_vector": _rows(_OURS),
        "continued_training": Settings(source=_TRAINING),
        "replay": Settings(source=_TRAINING),
    },
    "denoising": {
        "gradient_ascent": _latent(),
        "graddiff": _latent(),
        "npo": _latent("beta of DUO (arXiv 2407.21035), 500", beta=500.0),
        "random_label": _latent(_SALUN, lr=1e-4, retain_weight=3.1),
        "salun": _latent(_SALUN, lr=1e-4, retain_weight=3.1),
        "esd": _latent("learning rate of the authors' script"),
        "concept_ablation": _latent("learning rate of the authors' code"),
        "selective_amnesia": _latent("the paper's for CIFAR-10", lr=1e-4, penalty_weight=10.0),
    },
    "image_classification": {
        "finetune": _images(50),
        "l1_sparse": _images(50),
        "gradient_ascent": _images(10, lr=3e-4),
        "graddiff": _images(30, lr=1e-4),
        "npo": _images(100),
        "random_label": _images(50),
        "salun": _images(50),
        "bad_teacher": _images(50),
        "scrub": _images(100),
        "scrub_r": _images(100),
        "imu": _images(30),
        "mcu": Settings({"steps": 300}, source="ours, not measured: as many steps as passes where all items are read"),
    },
}


def published(spec: str, task: Task) -> Settings | None:
    """Return the settings of `"method"` or `"method:variant"` for a task; `None` if there are none."""
    of_task = PUBLISHED.get(task.name, {})
    return of_task.get(spec) or of_task.get(spec.partition(":")[0])


def build_method(
    spec: str | Method | Loss | Objective, options: Mapping[str, Any], task: Task, model: nn.Module | None = None
) -> Method:
    """Return a method with the settings published for a task; the caller's `options` override them.

    `spec` is a name, `"name:variant"`, an objective, which takes the settings of `graddiff`, or a `Method`, which is
    returned. A `model` with an adapter takes its rate.

    Raises:
        InvalidInputError: an unknown name, variant or option, a value of the wrong type, or options beside a method.
        InvalidTypeError: something else in place of a method.
    """
    if isinstance(spec, Method):
        return METHODS.build(spec, options)
    if isinstance(spec, str):
        name, (cls, variant) = spec, METHODS.variant(spec)
    elif isinstance(spec, Loss | Objective):
        name, cls, variant = "own", OwnObjective, {"given": as_objective(spec)}
    else:
        got = f"the class {spec.__name__}" if isinstance(spec, type) else type(spec).__name__
        raise InvalidTypeError(f"Expected a method's name, a Method object or an objective (got {got})")
    found, settings = published(name if isinstance(spec, str) else "graddiff", task), {}
    if found is not None and {**variant, **options}.get("mode", "default") == "default":  # another fills in its own
        settings = dict(found.options)
        rate = found.rate(adapter=True)
        if rate is not None and model is not None and task.adapts(model):
            settings["lr"] = rate
        if "epochs" in options:
            settings.pop("steps", None)
    check_one_optimizer(options.get("optimizer"))
    method = METHODS.construct(name, cls, {**settings, **variant}, options)
    _check_together(name, options)
    _check_filled(name, method, options)
    return method


def _check_together(spec: str, options: Mapping[str, Any]) -> None:
    """Refuse options of which one would be ignored."""
    if options.get("steps") is not None and "epochs" in options:
        raise InvalidInputError(f"Expected 'epochs' or 'steps' of '{spec}' (got both)")
    if callable(options.get("train")) and len(options) > 1 and spec != "auto":  # which calls it where it retrains
        others = sorted(set(options) - {"train"})
        raise InvalidInputError(f"Expected no settings of '{spec}' beside 'train', which has its own (got {others})")
    if "lr" in options and makes_its_own(options.get("optimizer")):
        raise InvalidInputError(f"Expected no 'lr' of '{spec}' beside an 'optimizer' that has its own (got both)")


def _check_filled(spec: str, method: Method, options: Mapping[str, Any]) -> None:
    """Refuse `None`, which means all items, where a mode has put a number in its place."""
    for name in ("batch_size", "forget_batch_size"):
        filled = getattr(method, name, None)
        if filled is not None and options.get(name, filled) is None:
            raise InvalidInputError(
                f"Expected a number for '{name}' of '{spec}' (got None, for which its mode has {filled}); to read all "
                "items at once name a number as large as theirs"
            )


def settings_listing() -> tuple[list[str], list[list[str]]]:
    """Return the heading and the rows of the table."""
    head = ["task", "method", "settings", "lr of adapters", "from"]
    body = []
    for task, of_task in PUBLISHED.items():
        for name, settings in of_task.items():
            shown = ", ".join(f"{key}={value}" for key, value in settings.options.items())
            rate = settings.rate(adapter=True)
            body.append([task, name, shown, "" if rate is None else f"{rate:g}", settings.source])
    return head, body
