"""Bytes per second that the memory of this device delivers: streams, and rows gathered at random."""

from pathlib import Path

import torch

from experiments.speed.clocks import block

DEFAULT_CACHE = 32 * 2**20


def cache_bytes(device: str = "cpu") -> int:
    """The largest cache of the device, as the system tells it."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KMG")) * unit)
    return max(sizes, default=DEFAULT_CACHE)


def bandwidth(
    device: str = "cpu", row: int = 64, repeats: int = 15, arrays_bytes: int | None = None
) -> dict[str, float]:
    """Best of several: `copy` and `triad` (a = b + s c), and `gather` of random rows of `row` floats; bytes per second.

    Each array is four times the largest cache, 128 MiB at least and 1 GiB at most. Every byte read or written counts
    once: what a cache does to fetch a line before it is overwritten is not counted.
    """
    size = arrays_bytes or min(max(4 * cache_bytes(device), 128 * 2**20), 2**30)
    count = size // (4 * row) * row
    a, b, c = (torch.full((count,), float(k), device=device) for k in range(3))
    rows = b.view(-1, row)
    index = torch.randperm(rows.size(0), device=device)
    streams = {
        "copy": (2 * 4 * count, lambda: a.copy_(b)),
        "triad": (3 * 4 * count, lambda: torch.add(b, c, alpha=3.0, out=a)),
        "gather": (2 * 4 * count + 8 * index.numel(), lambda: torch.index_select(rows, 0, index, out=a.view(-1, row))),
    }
    best = {name: min(block(run, repeats, device)) for name, (_, run) in streams.items()}
    return {name: moved / best[name] for name, (moved, _) in streams.items()}
