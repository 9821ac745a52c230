"""What `auto` chooses for a language model, before a Trainer or the package's loop runs it."""

from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.training.backend import TrainerBackend
from gunlearn.llm.training.by_loop import read_by_trainer_alone
from gunlearn.methods.any_task.by_training import Choice
from gunlearn.tasks.base import Task


def resolve_auto(auto: Any, task: Task, model: nn.Module, backend: TrainerBackend, epochs: float | None) -> Choice:
    """Return the method that `auto`, a `gunlearn.methods.auto.Auto`, chooses, its options, and why.

    Options that a Trainer alone reads ask for a Trainer, and so for `npo`.

    Raises:
        InvalidInputError: options of `auto` that would not be read.
    """
    more = read_by_trainer_alone(backend)
    if epochs is not None and epochs != int(epochs):
        more.append("epochs")
    given = {name for name in auto.options() if getattr(auto, name) is not None}
    unread = sorted(given - {"lr", "batch_size"} if more else given & {"train"})
    if unread:
        why = f"beside {more[0]!r}, which a Trainer reads alone" if more else "here; gunlearn.unlearn takes it"
        raise InvalidInputError(f"Expected no {unread[0]!r} of 'auto' {why} (got one)")
    if more:
        rate = {} if auto.lr is None else {"lr": auto.lr}
        choice = Choice("npo", rate, f"only methods of a Trainer read {more[0]!r}")
    else:
        choice = auto.choose_for_fine_tuned(task, model, None if epochs is None else int(epochs))
    return choice._replace(options=auto.in_batches(choice.method, choice.options))
