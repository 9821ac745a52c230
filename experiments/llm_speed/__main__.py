"""NPO beside plain fine-tuning with the same adapter; see README.md in this folder.

python -m experiments.llm_speed --out runs/llm_speed [--rounds 2] [--steps 3]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from experiments.common import markdown
from experiments.llm_speed.worker import WHAT

ANSWERS = ("half", "all")


def measure(what: str, answers: str, steps: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "experiments.llm_speed.worker", what, answers, "--steps", str(steps)]
    # Freed blocks of the large tensors go back to the system, so that the peak is of what is held at once.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def rows(found: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Medians over all timed steps and all runs, and ratios to plain fine-tuning."""
    out = []
    for (what, answers), runs in found.items():
        plain = found["plain", answers]
        seconds, reference = (median(s for run in side for s in run["seconds"][1:]) for side in (runs, plain))
        memory, least = (median(run["mebibytes"] for run in side) for side in (runs, plain))
        out.append(
            {
                "what": what, "answers": answers, "seconds": seconds, "mebibytes": memory,
                "throughput": reference / seconds, "memory": memory / least,
                "timed_steps": sum(len(run["seconds"]) - 1 for run in runs),
            }
        )  # fmt: skip
    return out


def table(measured: list[dict[str, Any]]) -> str:
    """A line per kind of training and share of answers."""
    figures = {"seconds": ".2f", "mebibytes": ".0f", "throughput": ".2f", "memory": ".2f"}
    body = [[row["what"], row["answers"], *(f"{row[k]:{spec}}" for k, spec in figures.items())] for row in measured]
    return markdown(("training", "answers", "CPU s per step", "peak MiB", "throughput", "memory"), body, 2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for answers in ANSWERS:
            for what in WHAT:
                found.setdefault((what, answers), []).append(measure(what, answers, options.steps))
    measured = rows(found)
    (options.out / "results.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(table(measured))


if __name__ == "__main__":
    main()
