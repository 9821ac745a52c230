"""A model's message passing layers, and the caches of those with `cached=True`."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch_geometric.nn import MessagePassing

from gunlearn.errors import InvalidInputError, InvalidTypeError, UnsupportedModelError

#: Attributes in which PyG's `cached=True` layers keep what they computed from the first graph they saw.
CACHES = ("_cached_edge_index", "_cached_adj_t", "_cached_x", "_cached_h")


def message_passing_layers(model: nn.Module) -> dict[str, MessagePassing]:
    """Return the outermost message passing layers of a model by name, in the order of `model.named_modules()`.

    Layers inside other layers are left out; a layer used twice appears once. A model that is a layer has the name `""`.
    The wrapper of `torch.compile` adds nothing to the names.

    Raises:
        InvalidTypeError: `model` is no module.
        UnsupportedModelError: there is no such layer (a scripted model has none either).
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"Expected 'model' to be a torch.nn.Module (got {type(model).__name__})")
    layers: dict[str, MessagePassing] = {}
    seen: set[int] = set()

    def visit(module: nn.Module, path: tuple[str, ...]) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        if isinstance(module, MessagePassing):
            layers[".".join(path)] = module
            return
        for name, child in module.named_children():
            visit(child, path if name == "_orig_mod" else (*path, name))

    visit(model, ())
    if not layers:
        inner = getattr(model, "_orig_mod", model)
        raise UnsupportedModelError(
            f"Expected a model with torch_geometric.nn.MessagePassing layers (got {type(inner).__name__} without any)"
        )
    return layers


def choose_layers(model: nn.Module, names: Collection[str] | None) -> dict[str, MessagePassing]:
    """Return the outermost layers of the given names (default all), in the model's order.

    An unknown name, or a string in place of a collection, raises `InvalidInputError`.
    """
    layers = message_passing_layers(model)
    if names is None:
        return layers
    if isinstance(names, str):
        raise InvalidInputError(f"Expected 'layers' as a collection of names (got the string '{names}')")
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise InvalidInputError(f"Expected names of layers among {list(layers)} (got {unknown})")
    return {name: layers[name] for name in layers if name in set(names)}


@contextmanager
def suspended_caches(*modules: nn.Module) -> Iterator[None]:
    """Inside the block `cached=True` layers of the modules compute afresh; after it they have their old caches back.

    Caches are off, not only empty: a result on the edited graph (or with a `scale` under optimisation) must neither
    serve the next call nor outlive the block. `_alpha`, which attention layers keep after an exception, is reset too.
    """
    with ExitStack() as stack:
        for layer in {m: None for module in modules for m in module.modules() if isinstance(m, MessagePassing)}:
            state = layer.__dict__
            saved = {name: state[name] for name in CACHES if name in state}
            edited: dict[str, Any] = dict.fromkeys(saved)
            if state.get("cached") is True:
                saved["cached"], edited["cached"] = True, False
            if "_alpha" in state and state["_alpha"] is None:
                saved["_alpha"] = None
            stack.callback(state.update, saved)
            state.update(edited)
        yield
