"""Where commands compute."""

import torch

from gunlearn.errors import InvalidInputError


def check_device(device: str) -> None:
    """Refuse CUDA where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError("Expected a CUDA device for --device cuda (got none)")
