"""Pipelines of diffusers for the command line. Loads when needed, since it imports diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from gunlearn.cli.devices import check_device
from gunlearn.diffusion.pipelines import open_pipeline


def load_pipeline(folder: Path, device: str) -> Any:
    """Return the pipeline of a folder on a device, `"auto"` being CUDA where there is one."""
    check_device(device)
    pipeline = open_pipeline(folder)
    return pipeline.to("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def quiet_loading(progress: bool) -> Iterator[None]:
    """Hide diffusers' own bars inside the block, unless `progress`."""
    shown = logging.is_progress_bar_enabled()
    if not progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
