"""A forward pass before any work starts: a model that cannot be called or read by the task fails here, in words."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.errors import UnsupportedModelError
from gunlearn.losses import Prediction
from gunlearn.nn.kernels.bag_of_words import share_sparse
from gunlearn.seed import isolated_rng
from gunlearn.tasks.base import Task
from gunlearn.tasks.dense_gradients import make_gradients_dense
from gunlearn.tasks.logits import check_finite, check_logits, check_steady


@dataclass(frozen=True)
class Trial:
    """What a model returned in the trial pass, in evaluation mode and without gradients.

    Attributes:
        outputs: what `Task.encode` returned, for a task on a graph a row per node (or graph) `[num_rows, dim]`.
        prediction: of the items of `Task.trial_items`; `None` where the task tries none.
    """

    outputs: Any = None
    prediction: Prediction | None = None


def trial_pass(model: nn.Module, data: Any, task: Task) -> Trial:
    """Call a private copy of `model` on `data` twice, as the task does, in evaluation mode; random states stay.

    A compiled model runs uncompiled. A task that shares no pass and tries no items costs nothing.

    Raises:
        UnsupportedModelError: the model cannot be copied or called, or returns something else: other outputs at the
            second call, or probabilities in place of logits.
    """
    task.check_model(model)
    items = task.trial_items(data)
    if items is None and not task.shared_pass:
        return Trial()
    model = private_copy(getattr(model, "_orig_mod", model), task).eval()
    given, data = data, _with_own_features(data)
    with isolated_rng(), torch.no_grad(), _left_alone(data, given if task.shared_pass else None, model):
        trial = _tried(model, data, task, items)
        for values in (trial.outputs, _logits(trial)):
            check_finite(values, model)
        task.check_trial(model, data, trial.outputs)
        again = _tried(model, data, task, items)
    for first, second in ((trial.outputs, again.outputs), (_logits(trial), _logits(again))):
        check_steady(first, second, model)
    kind, logits = task.outcomes(model), _logits(trial)
    if kind and logits is not None and task.outputs == "logits":

        def again_with_gradients(wild: bool) -> Tensor | None:
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            read = data if not wild else other_features(data) if task.shared_pass else None
            with isolated_rng(), torch.enable_grad():
                return None if read is None else _logits(_tried(model, read, task, items))

        check_logits(task, kind, logits, again_with_gradients)
    return trial


def _with_own_features(data: Any) -> Any:
    """Return a shallow copy of the data with a copy of dense features, which most models that change data change."""
    data, x = copy.copy(data), getattr(data, "x", None)
    if isinstance(x, Tensor) and x.layout == torch.strided and x.is_floating_point():
        data.x = x.detach().clone()
        share_sparse(x, data.x)
    return data


@contextmanager
def _left_alone(data: Any, given: Any, model: nn.Module) -> Iterator[None]:
    """Undo what a model does to the tensors of `given`, the caller's, and refuse it; `data` is a shallow copy of them.

    The tensors themselves are read, beside the features: what is derived from an `edge_index` is kept with it.
    """
    names = [] if given is None else list(given.keys())
    live = {n: given[n] for n in names if isinstance(given[n], Tensor) and given[n].layout == torch.strided}
    before = {name: value if data[name] is not value else value.detach().clone() for name, value in live.items()}
    failed = None
    try:
        yield
    except UnsupportedModelError as error:  # outputs differ from call to call where a call changes the data
        failed = error
    finally:
        changed = [name for name, value in live.items() if not _same(value, before[name])]
        for name in changed:
            live[name].detach().copy_(before[name])
    changed += [name for name in live if name not in changed and not _same(data[name], before[name])]
    if changed:
        raise UnsupportedModelError(
            f"Expected a model that leaves data.{changed[0]} as it is (got {type(model).__name__}, which changes it in "
            f"place); let it work on {changed[0]}.clone()"
        ) from failed
    if failed is not None:
        raise failed


def _same(value: Any, before: Tensor) -> bool:
    if value is before:
        return True
    if not isinstance(value, Tensor) or value.shape != before.shape or value.dtype != before.dtype:
        return False
    both_nan = before.is_floating_point() and bool(((value == before) | (value.isnan() & before.isnan())).all())
    return torch.equal(value, before) or both_nan


def _tried(model: nn.Module, data: Any, task: Task, items: Any) -> Trial:
    outputs = task.encode(model, data)
    return Trial(outputs, None if items is None else task.decode(model, outputs, items))


def other_features(data: Any) -> Any | None:
    """Return a graph with large features drawn anew; `None` without dense features."""
    x = data.get("x")
    if not isinstance(x, Tensor) or x.layout != torch.strided or not x.is_floating_point():
        return None
    drawn = copy.copy(data)
    drawn.x = 100 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    return drawn


def _logits(trial: Trial) -> Tensor | None:
    """Return the logits of all rows, or of the tried items where outputs are none."""
    return trial.prediction.logits if trial.prediction is not None else trial.outputs


def private_copy(model: nn.Module, task: Task) -> nn.Module:
    """Return a deep copy of `model`, see `plain_copy`, adapted by `Task.adopt`. Embeddings have dense gradients."""
    model = plain_copy(model)
    make_gradients_dense(model)
    return task.adopt(model)


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model`.

    Tensors with a gradient history that a forward pass left on a module (the means of PyG's `VGAE`) are copied without
    their history.

    Raises:
        UnsupportedModelError: something in it cannot be copied.
    """
    try:
        return copy.deepcopy(model, _copied_otherwise(model))
    except (RuntimeError, TypeError) as error:
        packed = [
            name for name, value in model.named_buffers() if value.layout not in (torch.strided, torch.sparse_coo)
        ]
        if packed:  # torch cannot copy them
            raise UnsupportedModelError(
                f"Expected a model that can be copied (got {', '.join(packed)} of layout "
                f"{model.get_buffer(packed[0]).layout}); store .to_sparse_coo(), or make it in 'forward' of edge_index"
            ) from error
        raise UnsupportedModelError(f"Expected a model that can be copied (got: {error}{_blamed(model)}") from error


def _blamed(model: nn.Module) -> str:
    """Return the attribute that cannot be copied, which closes the bracket of `(got: ...`, and what to do about it."""
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules") or isinstance(value, Tensor):
                continue
            try:
                copy.deepcopy(value, {id(one): one for one in model.modules()})
            except TypeError:
                where = f"{prefix}.{name}".lstrip(".")
                return (
                    f", in '{where}'); keep a {type(value).__name__} outside the model, or leave it out of copies in "
                    f"{type(module).__name__}.__getstate__ and make it anew in __setstate__"
                )
            except Exception:  # of tensors with a history, for which the other advice is
                continue
    return "); detach or delete tensors that a forward pass left on it"


def _copied_otherwise(model: nn.Module) -> dict[int, Any]:
    """Return the memo of `deepcopy` with copies of the tensors that it refuses, and of what takes it most of its time.

    That is the empty dictionaries of hooks, of which each module has a dozen and more.
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    hooks = {id(value): OrderedDict[Any, Any]() for value in values if type(value) is OrderedDict and not value}
    left = {id(value): value.detach().clone() for value in values if isinstance(value, Tensor) and not value.is_leaf}
    return hooks | left
