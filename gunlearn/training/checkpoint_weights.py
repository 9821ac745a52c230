"""Weights in a checkpoint, by the names that the model itself has for them."""

from collections.abc import Mapping

from torch import Tensor, nn

_HOLDERS = ("model", "module", "net", "_orig_mod")


def without_holder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the name of what holds the model, where all have it: Lightning and DDP write it."""
    first = next(iter(weights), "").split(".")[0]
    if first in _HOLDERS and all(name.startswith(f"{first}.") for name in weights):
        return {name.removeprefix(f"{first}."): value for name, value in weights.items()}
    return dict(weights)


def weights_for(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights by the names of `model`.

    What holds the model in a file (see `without_holder`) goes, unless the model has such a layer itself. Entries that a
    file left out because `model` ties them to others, as safetensors does, are put back. Names that do not fit stay.
    """
    own, named = model.state_dict(), dict(weights)
    while own.keys().isdisjoint(named):
        shorter = without_holder(named)
        if shorter.keys() == named.keys():
            named = dict(weights)
            break
        named = shorter
    place = {name: (value.data_ptr(), value.shape, value.stride()) for name, value in own.items()}
    known = {place[name]: named[name] for name in own if name in named and own[name].numel()}
    return {**named, **{name: known[at] for name, at in place.items() if name not in named and at in known}}
