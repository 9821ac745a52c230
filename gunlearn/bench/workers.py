"""Worker processes of a grid end with the process that started them."""

import os
import threading
import time

_WATCHED: set[int] = set()


def end_with(parent: int, every: float = 1.0) -> None:
    """End this process once `parent` is no longer its parent, as after a kill; look every so many seconds.

    Without it a worker finishes its cell, hours maybe, for nobody. Does nothing where `parent` is not this process's
    parent: on workers of a cluster, and in the parent itself.
    """
    if os.getppid() != parent or parent in _WATCHED:
        return
    _WATCHED.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)  # from a thread `sys.exit` ends the thread alone

    threading.Thread(target=watch, daemon=True, name="ends with its parent").start()
