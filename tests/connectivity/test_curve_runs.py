"""Runs of curves: which checkpoints are theirs, activations that are computed twice, and settings that are refused."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gunlearn as gu
from gunlearn.connectivity import BezierPath, CurveSettings, PolygonalChain, find_curve
from gunlearn.errors import CheckpointError, InvalidInputError, UnsupportedModelError
from gunlearn.losses import NLL, KLToReference
from gunlearn.training import with_curriculum
from tests.connectivity.cases import items, perceptron, trained
from tests.training.callbacks import Kill

TASK = gu.ImageClassification()
SETTINGS = {"path": "bezier", "points": 3, "steps": 12, "lr": 0.02}


def halves(model: nn.Sequential) -> None:
    """Double the weights of the first layer, in place."""
    with torch.no_grad():
        model[0].weight.mul_(2)


@pytest.fixture(scope="module")
def small():
    data = items()
    return data, gu.ForgetItems(label=1), [trained(perceptron(seed), data, seed) for seed in range(3)]


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.03}, {"seed": 1}, {"forgetting": 0.1}, {"t": "normal"}, {"optimizer": "sgd"}, {"path": "chain"},
        {"objective": 2 * NLL(on="retain")}, {"request": gu.ForgetItems(label=2)}, {"num_bends": 2}, {"second": 2},
        {"start": "original"}, {"data": items(1)}, {"l2": 0.1}, {"optimizer_options": {"betas": (0.5, 0.9)}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(small, tmp_path: Path, change: dict) -> None:
    """The same run goes on (the control); any other is refused, and not resumed in silence."""
    data, request, models = small

    def run(second: int = 1, **more: object) -> object:
        asked = {"data": data, "request": request, "original": models[2], **SETTINGS, **more}
        return gu.connect(models[0], models[second], task=TASK, checkpoint_dir=tmp_path, **asked)

    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[Kill(4, 6)])
    with pytest.raises(CheckpointError, match="Expected a checkpoint of this run"):
        run(**change)
    assert len(run().history) == 12


def test_a_curriculum_s_means_are_no_part_of_its_name(small, tmp_path: Path) -> None:
    data, request, models = small
    asked = {**SETTINGS, "objective": with_curriculum(NLL(on="retain")), "checkpoint_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        gu.connect(*models[:2], data, request, TASK, callbacks=[Kill(4, 6)], **asked)
    assert len(gu.connect(*models[:2], data, request, TASK, **asked).history) == 12


class Checkpointed(nn.Module):
    """A network whose hidden layer may be computed anew in the backward pass."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant, self.net = reentrant, perceptron()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.reentrant is None:
            return self.net(x)
        return self.net[2](checkpoint(self.net[:2], x.requires_grad_(), use_reentrant=self.reentrant))


def test_checkpoints_of_activations_change_nothing(small) -> None:
    """The curve is that of the same network without them; backward passes outside the call gave another one."""
    data, request, _ = small
    found = []
    for reentrant in (None, False):
        ends = [Checkpointed(reentrant) for _ in range(2)]
        halves(ends[1].net)
        path = BezierPath(*ends)
        before = [bend.detach().clone() for bend in path.bends]
        find_curve(path, TASK, request.resolve(data), settings=CurveSettings(steps=10, lr=0.02))
        assert not all(torch.equal(a, b) for a, b in zip(path.bends, before, strict=True))  # control
        found.append(torch.cat([bend.detach().flatten() for bend in path.bends]))
    torch.testing.assert_close(*found)
    ends = [Checkpointed(True) for _ in range(2)]
    with pytest.raises(UnsupportedModelError, match="use_reentrant=False"):
        find_curve(PolygonalChain(*ends), TASK, request.resolve(data), settings=CurveSettings(steps=2))


def test_the_original_keeps_its_mode(small) -> None:
    data, request, models = small
    original = models[2].train()
    objective = NLL(on="retain") + KLToReference(on="retain")
    find_curve(
        BezierPath(*models[:2]), TASK, request.resolve(data), objective, CurveSettings(steps=2), original=original
    )
    assert all(module.training for module in original.modules())
    original.eval()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"steps": 5, "epochs": 5}, "'steps' or 'epochs'"),
        ({"optimizer": torch.optim.Adam, "optimizer_options": {"lrr": 1}, "steps": 0}, "steps"),
        ({"optimizer": lambda p: torch.optim.Adam(p), "optimizer_options": {"eps": 1}}, "'optimizer_options'"),
        ({"optimizer": "adamm"}, "optimizer"),
        ({"scheduler": "StepLRR"}, "scheduler"),
        ({"scheduler_options": {"step_size": 3}}, "'scheduler_options'"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_settings_are_honoured_or_refused(bad: dict, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        CurveSettings(**bad)


def test_steps_are_600_unless_epochs_say_otherwise() -> None:
    assert [CurveSettings(**asked).num_steps for asked in ({}, {"steps": 5}, {"epochs": 5})] == [600, 5, None]
