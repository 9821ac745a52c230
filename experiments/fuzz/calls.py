"""One fuzzed call: what it was, and what came of it."""

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from experiments.fuzz import inputs
from gunlearn.errors import GunlearnError

#: Names of tasks; labels of one's own are of two kinds.
TASKS = ("link_prediction", "node_classification") * 2 + tuple(inputs.OWN)
#: Attributes of modules that hooks are kept in.
HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def unlearn(seed: int) -> dict[str, Any]:
    """One call of `gunlearn.unlearn`."""
    draw = random.Random(f"unlearn {seed}")
    wild = _wild(draw, ("data", "model", "request", "method", "call"))
    task, model_name, model, changes, data = _problem(draw, wild)
    method, options, kinds = inputs.method(draw, "method" in wild, task)
    request_name, make = inputs.request(draw, "request" in wild, data, kinds)
    call_name, called = inputs.calling(draw, "call" in wild, task)

    def call() -> Any:
        return gu.unlearn(model, data, make(), method, _task(task), seed=0, **called, **options)

    what = {"task": task, "model": model_name, "data": changes, "request": request_name, "call": call_name}
    return {"seed": seed, **what, "method": str(method), "options": _shown(options), **outcome(call, model, data)}


def influence(seed: int) -> dict[str, Any]:
    """One call of `gunlearn.influence`."""
    draw = random.Random(f"influence {seed}")
    wild = _wild(draw, ("data", "model", "items", "target", "estimator", "call"))
    task, model_name, model, changes, data = _problem(draw, wild)
    of = draw.choice(("edges", "edges", "nodes", "features"))
    estimator, options = inputs.estimator(draw, "estimator" in wild)
    target = draw.choice(("probabilities", "embeddings", "loss", "loss", lambda z: z.square().sum()))
    if "target" in wild:
        target = draw.choice(("nothing", None, 3, lambda z: z, lambda z: None, lambda z: z.sum() * float("nan")))
        of = draw.choice((of, "paths", None))
    items = inputs.items(draw, "items" in wild, of, data)
    call_name, called = inputs.calling(draw, "call" in wild, task)

    def call() -> Any:
        how = {"of": of, "estimator": estimator, "target": target, "items": items, **called, **options}
        return gu.influence(model, data, _task(task), **how)

    what = {
        "task": task,
        "model": model_name,
        "data": changes,
        "of": of,
        "target": _shown(target),
        "items": _shown(items),
        "call": call_name,
    }
    return {"seed": seed, **what, "method": str(estimator), "options": _shown(options), **outcome(call, model, data)}


CALLS: dict[str, Callable[[int], dict[str, Any]]] = {"unlearn": unlearn, "influence": influence}


def _task(name: str) -> str:
    return name.removesuffix(" of one")


def _wild(draw: random.Random, aspects: Sequence[str]) -> list[str]:
    """Which aspects of a call may be wrong: usually one."""
    return draw.sample(aspects, draw.choice((0, 1, 1, 1, 2)))


def _problem(draw: random.Random, wild: Sequence[str]) -> tuple[str, str, Any, list[str], Any]:
    """A task, a model and data; wild data are changed in up to three ways."""
    task = draw.choice(TASKS)
    torch.manual_seed(draw.randrange(2**31))
    data: Any = inputs.graph(draw, task)
    changes = draw.sample(sorted(inputs.CHANGES), draw.choice((1, 1, 2, 3)) if "data" in wild else 0)
    for name in changes:
        if isinstance(data, Data):
            try:
                data = inputs.CHANGES[name](data)
            except (RuntimeError, AttributeError, TypeError, ValueError, NotImplementedError, IndexError):
                continue  # two changes that exclude each other
    name, model = inputs.model(draw, "model" in wild, inputs.OWN.get(task, inputs.CLASSES))
    return task, name, model, changes, data


def outcome(call: Callable[[], Any], model: Any, data: Any) -> dict[str, Any]:
    """Run a call; say how it ended, and what of the caller's it changed."""
    before = _state(model, data)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            result = call()
        except GunlearnError as error:
            ended, words = "refused", f"{type(error).__name__}: {error}"
        except Exception as error:  # what the study looks for
            ended, words = "unclear", f"{type(error).__name__}: {error}"
        else:
            ended, words = ("NaN" if _has_nan(result) else "done"), ""
    changed = sorted(name for name, value in _state(model, data).items() if not _same(value, before.get(name)))
    warned = sorted({type(w.message).__name__ for w in seen if issubclass(w.category, RuntimeWarning)})
    return {"ended": ended, "words": words[:300], "changed": changed, "warned": warned}


def _has_nan(result: Any) -> bool:
    tensors = [result] if isinstance(result, Tensor) else list(result.model.state_dict().values())
    return any(not bool(t.isfinite().all()) for t in tensors if t.is_floating_point() and t.layout == torch.strided)


def _state(model: Any, data: Any) -> dict[str, Any]:
    """All of the caller's that a call could change."""
    found: dict[str, Any] = {
        "torch's random state": torch.get_rng_state(),
        "Python's random state": random.getstate(),
        "NumPy's random state": str(np.random.get_state()),
        "threads": torch.get_num_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
    }
    if isinstance(model, nn.Module):
        found |= {f"model.{name}": _copy(value) for name, value in model.state_dict().items()}
        for name, module in model.named_modules():
            found[f"mode of {name}"] = module.training
            found[f"hooks of {name}"] = {key: len(getattr(module, key)) for key in HOOKS}
            found[f"attributes of {name}"] = sorted(vars(module))
        for name, parameter in model.named_parameters():
            found[f"flags of {name}"] = (parameter.requires_grad, parameter.grad is None)
    if isinstance(data, Data):
        found["keys of data"] = sorted(data.keys())
        found |= {f"data.{key}": _copy(value) for key, value in data.to_dict().items()}
        found |= {
            f"grad of {k}": v.grad is None for k, v in data.to_dict().items() if isinstance(v, Tensor) and v.is_leaf
        }
    return found


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or a.layout != b.layout:
            return False
        a, b = (t.to_dense() if t.layout != torch.strided else t for t in (a, b))
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return type(a) is type(b) and bool(np.all(np.asarray(a == b)))


def _shown(value: Any) -> str:
    return "function" if callable(value) else " ".join(repr(value).split())[:80]


@contextmanager
def quiet() -> Iterator[None]:
    """Leave warnings of the calls to `outcome`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
