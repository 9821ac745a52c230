"""The model itself, without what runs it."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def inner_model(model: nn.Module) -> nn.Module:
    """Return the model that `torch.compile`, `DataParallel` or `DistributedDataParallel` runs; else `model`.

    They put a name of their own before each parameter's, under which nobody else knows it.
    """
    while True:
        inner = model.module if isinstance(model, DataParallel | DistributedDataParallel) else None
        inner = getattr(model, "_orig_mod", inner)
        if inner is None:
            return model
        model = inner


def learning_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that learn, as `inner_model` knows them."""
    return [name for name, parameter in inner_model(model).named_parameters() if parameter.requires_grad]
