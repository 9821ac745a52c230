"""Devices by the names that settings and commands take."""

import torch

from gunlearn.errors import InvalidInputError


def resolve_device(device: str) -> torch.device:
    """Return the device of a name, `"auto"` being CUDA where there is one; refuse unknown and missing devices."""
    if device not in ("cpu", "cuda", "auto"):
        raise InvalidInputError(f"Expected a device 'cpu', 'cuda' or 'auto' (got '{device}')")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError("Expected a CUDA device for 'cuda' (got none; use 'cpu' or 'auto')")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
