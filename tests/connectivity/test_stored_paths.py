"""Paths on disk: what does not fit the model that it is read with is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

import gunlearn as gu
from gunlearn.connectivity import BezierPath, Dial, LinearPath, load_path, save_path, stored_paths
from gunlearn.core.atomic import checksum
from gunlearn.errors import CheckpointError, DivergenceError
from tests.connectivity.cases import items, perceptron


class Scaled(nn.Module):
    """A layer, times a parameter, plus a constant that is no parameter."""

    def __init__(self, rows: int = 1, scale: bool = True, shift: float = 0.0, power: int = 1) -> None:
        super().__init__()
        self.layer, self.shift, self.power = nn.Linear(4, 3), torch.tensor(shift), power
        if scale:
            self.scale = nn.Parameter(torch.randn(rows, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) ** self.power * getattr(self, "scale", 1) + self.shift


def negated() -> nn.Module:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.shift, self.power = nn.Linear(4, 3), torch.tensor(0.0), 1
            self.scale = nn.Parameter(torch.randn(1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -self.layer(x) * self.scale

    return Scaled()


@pytest.mark.parametrize(
    ("blank", "words"),
    [
        (lambda: Scaled(5), r"shape of '0:scale'"),
        (lambda: Scaled(scale=False), r"'0:scale', '1:scale'.* are in the file or in the model alone"),
        (lambda: Scaled().half(), "dtype of"),
        (lambda: Scaled().double(), "dtype of"),
        (negated, "the code of 'Scaled' differs"),
        (lambda: Scaled(shift=2.0), "the data in 'shift' differ"),
        (lambda: Scaled(power=2), "power of '' was 1, and is 2"),
    ],
    ids=["rows", "names", "half", "double", "code", "data", "setting"],
)
def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, blank: Callable[[], nn.Module], words: str) -> None:
    path = LinearPath(Scaled(), Scaled())
    again = load_path(save_path(path, tmp_path), Scaled())  # control
    assert all(torch.equal(again.weights(0.4)[n], value) for n, value in path.weights(0.4).items())
    with pytest.raises(CheckpointError, match=words):
        load_path(tmp_path, blank())


def test_extra_buffers_are_refused(tmp_path: Path) -> None:
    norms = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    save_path(LinearPath(*norms), tmp_path)
    norms[0].register_buffer("more", torch.zeros(1))
    with pytest.raises(CheckpointError, match="'buffer 0:more', 'buffer 1:more'"):
        load_path(tmp_path, norms[0])


def resigned(directory: Path, **change: object) -> None:
    """Change a record as somebody would who wrote it so: its own checksum fits."""
    record = {**json.loads((directory / "path.json").read_text()), **change}
    record["own_checksum"] = stored_paths._own_checksum(record)
    (directory / "path.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"kind": "circle"}, "'kind' to be one of"), ({"num_bends": 2}, "alone"), ({"num_bends": "1"}, "num_bends")],
)
def test_a_record_of_something_else_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    save_path(BezierPath(perceptron(0), perceptron(1)), tmp_path)
    resigned(tmp_path, **change)
    with pytest.raises(CheckpointError, match=words):
        load_path(tmp_path, perceptron(9))


def test_a_file_of_another_python_is_read_whatever_its_hashes(tmp_path: Path) -> None:
    """Hashes of code depend on the version of Python; the control is the same file of this one."""
    save_path(LinearPath(Scaled(), Scaled()), tmp_path)
    record = json.loads((tmp_path / "path.json").read_text())
    resigned(tmp_path, code={**record["code"], "Scaled": "other"})
    with pytest.raises(CheckpointError, match="the code of"):
        load_path(tmp_path, Scaled())
    resigned(tmp_path, python="2.7")
    assert load_path(tmp_path, Scaled()).name == "linear"


def test_a_bend_with_nan_is_refused(tmp_path: Path) -> None:
    save_path(BezierPath(perceptron(0), perceptron(1)), tmp_path)
    tensors = load_file(tmp_path / "path.safetensors")
    tensors["1:2.bias"][1] = float("nan")
    content = save(tensors)
    (tmp_path / "path.safetensors").write_bytes(content)
    resigned(tmp_path, checksum=checksum(content))
    with pytest.raises(CheckpointError, match=r"NaN or infinity in '1:2\.bias'"):
        load_path(tmp_path, perceptron(9))


def test_a_dial_refuses_losses_that_are_not_finite() -> None:
    """NaN is above no limit, so that a choice without a look at it would go on to the end."""
    data = items(number=60)

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).relu())

    first, second = Wide(), Wide()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 1e37)
    dial = Dial(LinearPath(first, second), gu.ImageClassification(), gu.ForgetItems(label=1).resolve(data))
    for asked in (lambda: dial.choose(points=5), lambda: dial.figures(dial.at(1.0))):
        with pytest.raises(DivergenceError, match="finite losses"):
            asked()
