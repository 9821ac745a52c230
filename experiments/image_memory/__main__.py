"""Peak memory of forgetting ten thousand of a hundred thousand images; see README.md in this folder.

python -m experiments.image_memory --out runs/image_memory [--smoke] [--methods npo scrub]
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import gunlearn as gu
from experiments.common import StudyArgs, markdown, write_results
from gunlearn.bench.store import atomic_write

SIDE, CLASSES, BATCH, LARGEST = 32, 10, 128, 1.5
METHODS = (
    *("npo", "scrub", "finetune", "graddiff", "random_label", "bad_teacher", "imu", "gradient_ascent"),
    *("ssd", "continued_training", "utu"),
)
#: Options of methods that take no `epochs`.
OWN: dict[str, dict[str, Any]] = {"ssd": {}, "utu": {}, "continued_training": {"training_steps": 782}}


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        methods: which of them.
        one: run this one alone, in this process, and print its row (what the study calls itself with).
    """

    methods: tuple[str, ...] = METHODS
    one: str = ""


class Generated(Dataset):
    """Images `[3, 32, 32]` made from their numbers: nothing of them is kept."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.targets = (torch.arange(count) % CLASSES).tolist()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(i))
        x[:, :, i % CLASSES] += 2  # a column tells the class
        return x, i % CLASSES


def main(args: Args) -> None:
    """Run each method in a process of its own, and the training that it is compared with."""
    if args.one:
        print(json.dumps(row(args.one, args.smoke)))
        return
    rows: list[dict[str, Any]] = []
    done = args.out / "results.json"
    if done.is_file():
        rows = [found for found in json.loads(done.read_text()) if found["smoke"] == args.smoke]
    for name in ("train", *(args.methods[:2] if args.smoke else args.methods)):
        if any(found["run"] == name for found in rows):
            continue
        command = [sys.executable, "-m", "experiments.image_memory", "--out", str(args.out), "--one", name]
        command += ["--smoke"] if args.smoke else []
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(found.stdout.splitlines()[-1]))
        atomic_write(done, json.dumps(rows, indent=1) + "\n")
    write_results(args.out, rows, table(rows))
    print(table(rows))


def row(name: str, smoke: bool) -> dict[str, Any]:
    """Peak memory of a training, or of a training from files and a method, in this process."""
    torch.set_num_threads(1)
    count = 500 if smoke else 100_000
    torch.manual_seed(1)
    loader = DataLoader(Generated(count), batch_size=BATCH, shuffle=True)
    model = gu.nn.SmallCNN(3, CLASSES, widths=(8, 16))
    begin = time.perf_counter()
    if name == "train":
        gu.train(model, loader, "image_classification", epochs=1, keep_state=False)
    else:
        request = gu.ForgetItems(count=count // 10)
        gu.unlearn(model, loader, request, name, "image_classification", **OWN.get(name, {"epochs": 1}))
    return {
        "run": name,
        "images": count,
        "forgotten": 0 if name == "train" else count // 10,
        "batch": BATCH,
        "seconds": time.perf_counter() - begin,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "smoke": smoke,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Peak memory, and its ratio to that of the training."""
    base = next(found["peak_mb"] for found in rows if found["run"] == "train")
    body = []
    for found in rows:
        ratio = found["peak_mb"] / base
        body.append(
            [
                "training" if found["run"] == "train" else f"`{found['run']}`",
                f"{found['images']:,}",
                f"{found['forgotten']:,}",
                f"{found['peak_mb']:.0f}",
                f"{ratio:.2f}{'' if ratio <= LARGEST else ' (too much)'}",
                f"{found['seconds']:.0f}",
            ]
        )
    return markdown(["run", "images", "forgotten", "peak MiB", "of training", "seconds"], body)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
