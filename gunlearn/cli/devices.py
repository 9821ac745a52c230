"""Where commands compute, and whether libraries show their own bars meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gunlearn.errors import InvalidInputError


def check_device(device: str) -> None:
    """Refuse CUDA where there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError("Expected a CUDA device for --device cuda (got none)")


@contextmanager
def without_bars(logging: Any, progress: bool) -> Iterator[None]:
    """Hide a library's own bars inside the block, unless `progress`.

    Args:
        logging: the module `utils.logging` of transformers or diffusers.
        progress: leave them as they are.
    """
    shown = logging.is_progress_bar_enabled()
    if not progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
