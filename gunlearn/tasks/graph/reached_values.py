"""The values that a caller's own code reaches beside its arguments, by name."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from gunlearn.core.libraries import is_own, is_own_module
from gunlearn.tasks.graph.held_tensors import within

_READING = ("forward", "encode", "decode")  # methods of a model that tasks call
_FUNCTIONS = 64  # that are followed


def reached_by(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a callable's code reaches: enclosed and global variables, defaults, attributes of its object.

    Own functions that it names are followed, and what a collection, a graph or an own object holds is yielded too.
    """
    yield from _reached([function], ())


def modules_reached_by(function: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield, by name, the modules that a callable's code reaches, itself and the owner of a method among them.

    Attributes of objects count where the code names them.
    """
    if isinstance(function, nn.Module):
        yield type(function).__name__, function
        return
    named = set(_attributes(_code(function))) if _code(function) is not None else set()
    found = [entry for entry in _reached([function], (), named) if isinstance(entry[1], nn.Module)]
    for name, module in found:
        _, dot, attribute = name.partition("[")[0].rpartition(".")
        if not dot or attribute in named:
            yield name, module


def _code(function: Any) -> Any:
    """Return the code that runs where an object is called; `None` where none is to be seen."""
    return getattr(function if hasattr(function, "__code__") else type(function).__call__, "__code__", None)


def reached_by_model(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what the own classes among a model's modules hold, and what the code of their forward passes reaches."""
    kinds = {kind: None for owner in model.modules() for kind in type(owner).__mro__ if is_own(kind)}
    for kind in kinds:
        for name, value in vars(kind).items():
            if not name.startswith("__") and not callable(value) and not isinstance(value, property):
                yield from within(f"{kind.__name__}.{name}", value)
    yield from _reached([vars(kind)[name] for kind in kinds for name in _READING if name in vars(kind)], tuple(kinds))


def _reached(functions: list[Any], kinds: tuple[type, ...], named: set[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield what functions reach; methods of some classes are followed where a function names them.

    With a set `named`, modules are among it, and the names of attributes that the code reads are added to the set.
    """
    left, seen, names = list(functions), set[int](), set[str]()
    while left and len(seen) < _FUNCTIONS:
        function = left.pop(0)
        if id(function) in seen:
            continue
        seen.add(id(function))
        values: dict[str, Any] = {}
        if isinstance(function, functools.partial):
            values = {**{str(k): v for k, v in enumerate(function.args)}, **function.keywords}
            left.append(function.func)
        elif inspect.ismethod(function):
            owner = function.__self__
            values = {f"self.{name}": value for name, value in getattr(owner, "__dict__", {}).items()}
            if isinstance(owner, nn.Module):
                values |= {f"self.{name}": module for name, module in owner.named_children()}
            left += [function.__func__, *_methods_named(owner, function.__func__ if named is not None else None)]
        elif isinstance(function, FunctionType):
            values = _around(function)
            if named is not None:
                named.update(_attributes(function.__code__))
            called = set(function.__code__.co_names)
            methods = [vars(kind)[name] for kind in kinds for name in sorted(called & set(vars(kind)))]
            left += [one for one in methods if isinstance(one, FunctionType | property | classmethod | staticmethod)]
        elif isinstance(function, property):
            left.append(function.fget)
        elif isinstance(function, classmethod | staticmethod):
            left.append(function.__func__)
        elif not isinstance(function, type):
            values = {f"self.{name}": value for name, value in getattr(function, "__dict__", {}).items()}
            left += _methods_named(function, type(function).__call__ if named is not None else None)
        for name, value in values.items():
            if isinstance(value, functools.partial | FunctionType):
                left += [value] if is_own(value) or isinstance(value, functools.partial) else []
            elif name not in names:
                names.add(name)
                yield from within(name, value, modules=named is not None)


def _methods_named(owner: Any, function: Any) -> list[FunctionType]:
    """Return the methods of an object's own class that a function's code names."""
    names = _attributes(function.__code__) if hasattr(function, "__code__") else ()
    methods = [vars(type(owner)).get(name) for name in names]
    return [method for method in methods if isinstance(method, FunctionType)]


def _around(function: FunctionType) -> dict[str, Any]:
    """Return the variables around a function that its code reads, and its defaults, by name."""
    code, scope = function.__code__, function.__globals__
    names = _globals(code)
    values = {name: scope[name] for name in names if name in scope}
    for name, value in list(values.items()):
        if isinstance(value, ModuleType):  # of which it may read variables
            keys = _attributes(code) if is_own_module(value.__name__) else ()
            values |= {f"{name}.{key}": vars(value)[key] for key in keys if key in vars(value)}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
    parameters = inspect.signature(function).parameters.values()
    values |= {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: value for name, value in values.items() if not isinstance(value, ModuleType | type)}


def _globals(code: CodeType) -> list[str]:
    """Return the names of global variables that code reads, functions inside it included; attributes are none."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return sorted(own.union(*(_globals(part) for part in code.co_consts if isinstance(part, CodeType))))


def _attributes(code: CodeType) -> list[str]:
    """Return the names of attributes, and of some other things, that code reads."""
    own = set(code.co_names)
    return sorted(own.union(*(_attributes(part) for part in code.co_consts if isinstance(part, CodeType))))
