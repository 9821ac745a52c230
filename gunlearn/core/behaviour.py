"""What a model does beyond its weights: the types, settings and code of its modules.

Two models of one shape can compute different things: another activation, another dropout, another `forward`.
"""

import hashlib
import inspect
import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from numbers import Number
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gunlearn.core.libraries import is_own

#: Attributes that do not decide what a trained model computes, or that the shapes of its weights tell.
_IGNORED = {
    "training",
    "cached",
    "in_channels",
    "in_features",
    "num_features",
    "explain",
    "fuse",
    "inspector",
    "ran",
    "device",
    "name_or_path",
}
#: What a caller registers on a module that changes its outputs.
_HOOKS = ("forward_pre_hooks", "forward_hooks")
_OPERATORS = ".deletions"
#: Attributes of PyTorch's and PyG's base classes that begin with an underscore.
_LIBRARY_NAMES = {*vars(nn.Module()), "_user_args", "_explain", "_loop_mask", "_apply_sigmoid", "_alpha"}
_MOST = 16  # entries of a collection that are settings; more are data


def settings_of(model: nn.Module) -> dict[str, dict[str, str]]:
    """Return for each module, by name, its class and settings, such as `{"class": "Dropout", "p": "0.5"}`."""
    found = {}
    for name, module in model.named_modules():
        if _OPERATORS in f".{name}":  # what is attached belongs to a request, not to the model
            continue
        own = {k: v for k, v in vars(module).items() if k not in _IGNORED and _is_setting(module, k, v)}
        said = {k: _said(v) for k, v in sorted(own.items()) if not _is_attached(v)}
        cls = type(module).__name__.removeprefix("Lazy")
        found[name] = {"class": cls, **{k: v for k, v in said.items() if v}}
    return found


def _is_setting(module: nn.Module, name: str, value: Any) -> bool:
    """Return whether an attribute may decide what a module computes.

    Of those that begin with an underscore these are plain values and functions of the caller's own classes; libraries
    keep caches and hooks there.
    """
    if not name.startswith("_"):
        return True
    plain = isinstance(value, Number | str | tuple | Enum | partial | type) or inspect.isroutine(value)
    return plain and name not in _LIBRARY_NAMES and is_own(type(module))


def code_of(model: nn.Module) -> dict[str, str]:
    """Return hashes of the code that no library brings: of classes, of functions in attributes, of forward hooks.

    Classes of one name (a class and the one it inherits from) have one hash together. Hashes depend on the version of
    Python.
    """
    found: dict[str, str] = {}
    seen: set[type] = set()
    for name, module in model.named_modules():
        for cls in type(module).__mro__:
            if is_own(cls) and cls not in seen:
                seen.add(cls)
                own = _hash("".join(f"{k} {code_hash(f)}" for k, f in _functions(cls)))
                found[cls.__name__] = _hash(found[cls.__name__] + own) if cls.__name__ in found else own
        for attribute, value in vars(module).items():
            function = value.func if isinstance(value, partial) else value
            if inspect.isfunction(function) and not attribute.startswith("_") and is_own(function):
                found[f"{name}.{attribute}".lstrip(".")] = code_hash(function)
        for kind in _HOOKS:
            hooks = [hook for hook in getattr(module, f"_{kind}").values() if is_own(_code_of_hook(hook))]
            for k, hook in enumerate(hooks, start=1):
                found[f"{kind.rstrip('s')} {k} of {name or 'the model'}"] = _hook_hash(hook)
    return found


def _code_of_hook(hook: Any) -> Any:
    """Return the function behind a hook: its own, or of a callable object the class's."""
    hook = hook.func if isinstance(hook, partial) else hook
    return hook if hasattr(hook, "__code__") or hasattr(hook, "__func__") else type(hook)


def _hook_hash(hook: Any) -> str:
    code = _code_of_hook(hook)
    if isinstance(code, type):
        return _hash("".join(f"{k} {code_hash(f)}" for k, f in _functions(code)) + _said(hook))
    return _hash(code_hash(code) + (_said(hook) if isinstance(hook, partial) else ""))


def differences(saved: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return in words where `settings_of` two models differ.

    A setting that only one of the two has does not count: a forward pass may leave it, and code that reads it differs.
    """
    found = [
        f"module '{name}' is in one of the two alone" for name in {**saved, **now} if (name in saved) != (name in now)
    ]
    for name in (name for name in now if name in saved):
        both = saved[name].keys() & now[name].keys()
        changed = [k for k in sorted(both) if saved[name][k] != now[name][k]]
        found += [f"{k} of '{name}' was {saved[name][k]}, and is {now[name][k]}" for k in changed]
    return found


def changed_code(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return in words where `code_of` two models differs."""
    return [f"the code of '{name}' differs" for name in {**saved, **now} if saved.get(name) != now.get(name)]


def changes_since(saved: Mapping[str, Any], model: nn.Module, python: str) -> list[str]:
    """Return in words where a model's settings and code are others than a record's `settings` and `code`.

    Code is compared where the record was written by this version of Python; by another one it differs anyhow.
    """
    found = differences(saved["settings"], settings_of(model))
    same_python = python.split(".")[:2] == platform.python_version().split(".")[:2]
    return found + (changed_code(saved["code"], code_of(model)) if same_python else [])


def code_hash(function: Any) -> str:
    """Return a hash of a function's code, defaults and enclosed values; it depends on the version of Python."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not hasattr(function, "__code__"):
        return ""
    beside = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *_enclosed(function)]
    said = [_said(value) + (code_hash(value) if inspect.isfunction(value) else "") for value in beside]
    return _hash(repr((list(_instructions(function.__code__, function.__doc__)), said)))


def _instructions(code: CodeType, doc: str | None = None) -> Iterator[Any]:
    yield code.co_code.hex()
    yield code.co_names
    for i, constant in enumerate(code.co_consts):
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        elif not (i == 0 and constant == doc):  # comments do not count
            yield sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)


def _functions(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield what a class defines beside its construction, which shows in modules and settings."""
    for name, value in sorted(vars(cls).items()):
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(value) and name != "__init__":
            yield name, value


def _is_attached(value: Any) -> bool:
    """Return whether an attribute is one of this package's overrides of a layer's method."""
    return type(value).__module__.startswith("gunlearn.nn.attach")


def _enclosed(function: Any) -> Iterator[Any]:
    """Yield the settings that a function encloses: no state, and not the class that `super()` needs."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell
            if isinstance(cell.cell_contents, Number | str | tuple) or inspect.isroutine(cell.cell_contents):
                yield cell.cell_contents


def _said(value: Any, depth: int = 0) -> str:
    """Return a setting in words; an empty string for tensors and data."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        return ""
    if value is None or isinstance(value, Number | str | torch.dtype):
        text = repr(value)
        return text if len(text) <= 100 else _hash(text)
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    if isinstance(value, partial):
        return f"partial({', '.join(_said(v, depth) for v in (value.func, value.args, value.keywords))})"
    if depth < 2 and isinstance(value, list | tuple | set | frozenset | Mapping) and len(value) <= _MOST:
        if isinstance(value, Mapping):
            entries = [f"{key}={_said(entry, depth + 1)}" for key, entry in value.items() if isinstance(key, str)]
        else:
            entries = [_said(entry, depth + 1) for entry in value]
        return f"[{', '.join(sorted(entries) if isinstance(value, set | frozenset | Mapping) else entries)}]"
    if depth < 2 and is_own(type(value)) and getattr(value, "__dict__", None):  # a namespace of settings
        return f"{type(value).__name__}{_said(vars(value), depth)}"
    return type(value).__name__


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
