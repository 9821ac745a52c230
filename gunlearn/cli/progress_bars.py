"""Whether libraries show bars of their own while a command runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
