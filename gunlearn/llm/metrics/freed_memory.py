"""Memory that was freed, given back to the system."""

import gc

import psutil


def give_back_freed() -> None:
    """Return freed blocks of the CPU's memory to the system, where its allocator can.

    C's allocator keeps what many small tensors leave behind, in pieces that a later large tensor does not fit into.
    """
    gc.collect()
    trim = getattr(psutil, "heap_trim", None)  # not with every C library
    if trim is not None:
        trim()
