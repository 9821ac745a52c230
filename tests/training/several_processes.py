"""What `test_distributed.py` runs in one process and, through `accelerate launch`, in two; writes one file each."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.errors import GunlearnError
from gunlearn.methods import Retrain, run_method
from gunlearn.training import one_run
from gunlearn.training.processes import processes
from tests.methods.cases import fresh_model, make_data, run, seeded
from tests.training.callbacks import Kill, On

RANK = int(os.environ.get("RANK", 0))


def ask(state: Any, control: Any, **_: Any) -> None:
    """The main process alone asks for a checkpoint at epoch 3 and the end at epoch 5."""
    if RANK == 0:
        control.should_save, control.should_training_stop = state.epoch == 3, state.epoch == 5


STATES: list[Tensor] = []  # the random states that runs end with
RANDOM = On(train_end=lambda **_: STATES.append(torch.get_rng_state()))


def images(size: int = 101) -> Data:
    """Ten classes around random centres; the first rows are to be learned."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(150) % 10
    x = torch.randn(10, 16, generator=generator)[y] + 0.8 * torch.randn(150, 16, generator=generator)
    row = torch.arange(150)
    return Data(x=x, y=y, train_mask=row < size, val_mask=row >= size)


def perceptron(*between: nn.Module) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(16, 24), *between, nn.ReLU(), nn.Linear(24, 10)))


def double(data: Data) -> Data:
    data.x = data.x.double()
    return data


def link_runs() -> dict[str, gu.Result]:
    data = make_data()
    base = gu.train(fresh_model("gcn"), data, epochs=30, lr=1e-2, eval_every=5)
    runs = {"train": base}
    for name, options in {
        # Beside a weight decay the scale of a gradient matters, to Adam alone it does not.
        "npo": {"epochs": 10, "weight_decay": 0.1},
        "graddiff": {"epochs": 10, "eval_every": 5},
        "inpo:paper": {"epochs": 10},
        "inpo:default": {"epochs": 26, "lr": 5e-2},  # fast enough that edges are let go on the way
        "inpo:unseen": {"epochs": 10, "lr": 5e-3},
        # Each process encodes the subgraph of its own share.
        "graddiff in batches": {"epochs": 6, "batch_size": 40, "subgraph": "always"},
        "npo on samples": {"epochs": 6, "retain_samples": 30, "subgraph": "always"},
    }.items():
        runs[name] = run(name.split()[0], base.model, data, callbacks=[RANDOM], **options)
    one = gu.ForgetEdges(count=1)  # the other process has none
    runs["one edge"] = run("npo", base.model, data, one, epochs=5)
    runs["until"] = run("inpo:unseen", base.model, data, one, epochs=40, lr=2e-3)
    partition = gu.ForgetEdges(count=5).resolve(data)
    retrain = Retrain(epochs=30, lr=3e-2, eval_every=2, patience=2)
    runs["early stopping"] = run_method(retrain, base.model, partition, gu.LinkPrediction())
    # Biases before BatchNorm have no gradient but rounding, which Adam blows up to whole steps: float64.
    for name in ("pyg", "autoencoder"):
        runs[name] = run("npo", fresh_model(name).double(), double(make_data()), epochs=6)
    return runs


def image_runs() -> dict[str, gu.Result]:
    data, runs = images(), {}
    for name, task in {"images": gu.ImageClassification(), "batches": gu.ImageClassification(batch_size=21)}.items():
        base = gu.train(perceptron(), data, task, epochs=20, lr=1e-2, eval_every=5)
        runs[name] = gu.unlearn(
            base.model, data, gu.ForgetItems(torch.arange(7)), "npo", task, epochs=10, callbacks=[RANDOM]
        )
    # Of the last piece, one item, the other process has none. With SGD the scale of a gradient matters.
    more = {"batch_size": 3, "accumulate": True, "optimizer": "sgd", "lr": 0.1, "steps": 6}
    runs["accumulated"] = gu.unlearn(base.model, data, gu.ForgetItems(torch.arange(7)), "npo", task, **more)
    return runs


def killed_and_resumed(directory: Path) -> tuple[gu.Result, gu.Result, list[int], list[int]]:
    """The whole run, the resumed one, epochs that it began with, epochs at which checkpoints were written."""
    written, save = [], one_run.save_checkpoint

    def count(folder: Path, fingerprint: str, state: Any, tensors: Any) -> Any:
        written.append(state.epoch)
        return save(folder, fingerprint, state, tensors)

    def start(**more: Any) -> gu.Result:
        return run("npo", fresh_model("pyg").double(), double(make_data()), epochs=6, **more)

    whole, begun = start(), Kill((), None)
    one_run.save_checkpoint = count
    try:
        start(callbacks=[Kill((2, 3), 4)], checkpoint_dir=directory)
    except KeyboardInterrupt:
        resumed = start(callbacks=[begun], checkpoint_dir=directory)
    stopped = gu.train(
        fresh_model("gcn"), make_data(), epochs=9, callbacks=[On(epoch_end=ask)], checkpoint_dir=directory
    )
    one_run.save_checkpoint = save
    return whole, resumed, begun.begun, [*written, stopped.epochs]


def refused(start: Callable[[], Any]) -> str:
    try:
        start()
    except GunlearnError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(directory: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    runs = {**link_runs(), **image_runs()}
    whole, resumed, begun, written = killed_and_resumed(directory / "checkpoints")
    task, data = gu.ImageClassification(), images()
    dropout = gu.train(perceptron(nn.Dropout(0.5)), data, task, epochs=20, lr=1e-2, callbacks=[RANDOM])
    runs.update({"whole": whole, "resumed": resumed, "dropout": dropout})
    return {
        "world": processes().world,
        "history": {name: result.history for name, result in runs.items()},
        "weights": {name: result.model.state_dict() for name, result in runs.items()},
        "begun": begun,
        "written": written,
        "left": [path.name for path in (directory / "checkpoints").iterdir()],
        "random": torch.stack(STATES),
        "unlike": refused(lambda: gu.train(fresh_model("gcn", seed=RANK), make_data(), epochs=1)),
        "batch norm": refused(lambda: gu.train(perceptron(nn.BatchNorm1d(24)), data, task, epochs=1)),
    }


if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.save(main(out), out / f"rank{RANK}.pt")
