"""Pipelines of diffusers for the command line. Loads when needed, since it imports diffusers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from diffusers.utils import logging

from gunlearn.cli.progress_bars import without_bars
from gunlearn.core.devices import resolve_device
from gunlearn.diffusion.pipelines import open_pipeline

#: Hides the bars of diffusers inside a block, unless it is called with `progress=True`.
quiet_loading = partial(without_bars, logging)


def load_pipeline(folder: Path, device: str) -> Any:
    """Return the pipeline of a folder on a device, `"auto"` being CUDA where there is one."""
    where = resolve_device(device)
    return open_pipeline(folder).to(where)
