"""The record of a run in plain values, and how it differs from the published one."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from torch import nn

from gunlearn.llm.model.token_prediction import TokenPrediction
from gunlearn.llm.training import settings
from gunlearn.llm.training.run_parts import RunParts
from gunlearn.llm.training.trainer import UnlearnTrainer
from gunlearn.methods.base import Method
from gunlearn.methods.gradient import GradientMethod
from gunlearn.methods.published import published
from gunlearn.training.result import versions

#: Options of the loop; the record has them under "training".
_LOOP = tuple(f.name for f in dataclasses.fields(GradientMethod))


def run_config(method: GradientMethod, parts: RunParts) -> dict[str, Any]:
    """Return a method's options, those that it computed too; of its words, which may be forgotten ones, the number."""
    config = method.config() | {name: settings.recorded(value) for name, value in parts.plan.found.items()}
    words = getattr(method, "words", None)
    return config | ({"words": len(words)} if words else {})


def run_record(
    method: GradientMethod,
    base: nn.Module,
    trained: nn.Module,
    parts: RunParts,
    given: Mapping[str, Any],
    training: Mapping[str, Any],
    published_run: Mapping[str, Any] | None,
    steps: int,
    precision: str,
) -> dict[str, Any]:
    """Return all settings of a run.

    Args:
        method: the method.
        base: the model before unlearning.
        trained: the model after it.
        parts: the rows and the method's plan.
        given: further settings of the caller: `reference`, `peft` and others.
        training: the `TrainingArguments`.
        published_run: the source of the method's published settings, and the differences from them.
        steps: number of steps.
        precision: data types of the weights during training.
    """
    return {
        **shared_record(method, base, trained, given, steps, precision),
        "options": {k: v for k, v in run_config(method, parts).items() if k not in _LOOP},
        "objective": settings.shown(parts.plan.objective),
        "losses": settings.recorded_losses(parts.plan.objective),
        "in_no_loss": parts.unread,
        "layer": parts.plan.layer,
        "training": settings.recorded({k: v for k, v in training.items() if k != "output_dir"}),
        "published": published_run,
        "rows": parts.sizes,
    }


def shared_record(
    method: Method, base: nn.Module, trained: nn.Module, given: Mapping[str, Any], steps: int, precision: str
) -> dict[str, Any]:
    """Return the settings that a run has whoever trains; see `run_record`."""
    return {
        "base_model": getattr(getattr(base, "config", None), "_name_or_path", ""),
        "method": "" if method.name == "own" else method.name,
        **settings.recorded(given),
        "adapter": settings.recorded_adapter(trained),
        "steps": steps,
        "parameters": {
            "trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
            "all": sum(p.numel() for p in trained.parameters()),
            "precision": precision,
        },
        "versions": {"gunlearn": versions()["gunlearn"]}
        | {name: version(name) for name in ("torch", "transformers", "peft")},
    }


def differences_from_published(method: GradientMethod, task: TokenPrediction, trainer: UnlearnTrainer) -> list[str]:
    """Return in words what a run did otherwise than the published configuration of its method."""
    source, args, state = published(method.name, task), trainer.args, trainer.state
    if source is None:
        return []
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    used = method.config() | {"lr": args.learning_rate, "epochs": args.num_train_epochs}
    used |= {"weight_decay": args.weight_decay, "max_grad_norm": args.max_grad_norm}
    epoch = max(1, -(-len(trainer.train_dataset) // batch))
    if method.steps is not None or args.max_steps > 0:
        used["epochs"] = state.max_steps / epoch
    warmup = args.get_warmup_steps(state.max_steps) if args.lr_scheduler_type != "constant" else 0
    return source.differences(used, batch, warmup, epoch)
