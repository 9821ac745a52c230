"""One measurement in a fresh process with one thread: `python -m experiments.speed.worker '{"measure": ...}'`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch_geometric

from experiments.speed.measures import MEASURES

REPOSITORY = Path(__file__).resolve().parents[2]
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def measure(name: str, inline: bool = False, **spec: Any) -> dict[str, Any]:
    """Run one measurement, in this process if `inline` (to see that it runs; its memory figures mean nothing then).

    Raises:
        RuntimeError: the process failed or was killed, say for want of memory.
    """
    if inline:
        return _measured(name, spec)
    command = [sys.executable, "-m", "experiments.speed.worker", json.dumps({"measure": name, **spec})]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **THREADS}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"Expected measurement '{name}' of {spec} to end well (got exit code {done.returncode})")
    return json.loads(done.stdout.splitlines()[-1])


def _measured(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """With the circumstances; `busy` is the share of the wall time that one thread computed: less means waiting."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = MEASURES[name](**spec)
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    versions = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
    return {**result, "busy": round(busy, 3), "threads": torch.get_num_threads(), "versions": versions}


def main(text: str) -> None:
    spec = json.loads(text)
    torch.set_num_threads(1)
    print(json.dumps(_measured(spec.pop("measure"), spec)))


if __name__ == "__main__":
    main(sys.argv[1])
