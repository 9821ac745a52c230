"""Attacks on denoisers: a model whose best condition is known, and images that are copies by construction."""

import copy

import pytest
import torch
from torch import nn

from gunlearn.diffusion import Denoising, NoiseSchedule
from gunlearn.diffusion.metrics import learned_condition, memorised_images, nearest_items, relearning_curve
from gunlearn.errors import InvalidInputError, UnsupportedModelError

SHAPE = (1, 2, 2)
SCHEDULE = NoiseSchedule(torch.linspace(0.9, 0.1, 20))
TASK = Denoising(SCHEDULE)


class Means(nn.Module):
    """The best denoiser of classes that are one image each; conditions are classes, or those images themselves."""

    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Embedding(5, 4)
        self.other = nn.Linear(4, 4, bias=False)  # what it can do with a condition
        nn.init.eye_(self.other.weight)
        nn.init.zeros_(self.class_embedding.weight)

    def forward(self, sample, timestep, class_labels=None, encoder_hidden_states=None):
        y = encoder_hidden_states[:, 0] if class_labels is None else self.class_embedding(class_labels)
        signal, sigma = SCHEDULE.scales(timestep, sample)
        return (sample - signal * self.other(y).view(-1, *SHAPE)) / sigma


def images(count=40):
    draw = torch.Generator().manual_seed(0)
    return torch.tensor([1.0, -1.0, 0.5, 0.0]).view(SHAPE) + 0.05 * torch.randn(count, *SHAPE, generator=draw)


@pytest.mark.parametrize("kind", ["class", "embedding"])
def test_the_learned_condition_is_the_best_one(kind):
    model, x = Means(), images()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    start = 3 if kind == "class" else torch.zeros(1, 4)
    attacked, y = learned_condition(model, TASK, x, start, steps=400, lr=0.05)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = attacked.class_embedding.weight[3] if kind == "class" else y[0, 0]
    assert torch.allclose(found, x.mean(0).flatten(), atol=0.05)
    assert y.tolist() == [3] if kind == "class" else y.shape == (1, 1, 4)
    assert not attacked.class_embedding._forward_hooks
    others = [k for k in range(5) if k != 3] if kind == "class" else list(range(5))
    assert torch.equal(attacked.class_embedding.weight[others], before["class_embedding.weight"][others])
    assert torch.equal(attacked.other.weight, before["other.weight"])
    again, z = learned_condition(model, TASK, x, start, steps=400, lr=0.05)
    assert torch.equal(again.class_embedding.weight, attacked.class_embedding.weight)
    assert torch.equal(y, z)


def test_what_is_gone_from_the_weights_no_condition_brings_back():
    """The control: a model that cannot draw the second pixel any more."""
    model = Means()
    with torch.no_grad():
        model.other.weight[1] = 0
    attacked, _ = learned_condition(model, TASK, images(), 3, steps=300, lr=0.05)
    drawn = attacked.other(attacked.class_embedding.weight[3])
    assert float(drawn[1]) == 0
    assert drawn[[0, 2, 3]].tolist() == pytest.approx([1, 0.5, 0], abs=0.05)


def test_relearning_takes_steps_and_leaves_the_model():
    model, x = Means(), images()
    before = copy.deepcopy(model.state_dict())
    target = x.mean(0).flatten()

    def gap(one):
        torch.rand(3)  # a measure that draws changes neither the run nor the caller's state
        with torch.no_grad():
            return float((one.other(one.class_embedding.weight[3]) - target).norm())

    y = torch.full((40,), 3)
    state = torch.get_rng_state()
    curve = relearning_curve(model, TASK, x, y, gap, at=(30, 0, 3), lr=0.05)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(curve) == [0, 3, 30]
    assert curve[0] == pytest.approx(float(target.norm()))
    assert curve[0] > curve[3] > curve[30]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    alone = relearning_curve(model, TASK, x, y, gap, at=(30,), lr=0.05)
    assert alone == {30: curve[30]}
    with torch.no_grad():
        model.class_embedding.weight[3] = 0.8 * target
    near = relearning_curve(model, TASK, x, y, gap, at=(0, 3), lr=0.05)
    assert near[3] < curve[3]  # what is nearly there comes back sooner


def test_copies_of_forgotten_images_are_found():
    draw = torch.Generator().manual_seed(1)
    forgotten, retained = torch.randn(6, *SHAPE, generator=draw), torch.randn(9, *SHAPE, generator=draw)
    drawn = torch.cat([forgotten[[4, 4, 2]] + 0.01, retained[:5] + 0.01])
    found = memorised_images(drawn, forgotten, retained)
    brute = [[float((a - b).square().mean().sqrt()) for b in forgotten] for a in drawn]
    assert found.to_forgotten == pytest.approx(sum(map(min, brute)) / 8, rel=1e-5)
    assert (found.nearer_forgotten, found.copies, found.recovered) == (3 / 8, 3 / 8, 2 / 6)
    fresh = memorised_images(torch.randn(8, *SHAPE, generator=draw), forgotten, retained)
    assert fresh.copies < found.copies  # the control
    distance, which = nearest_items(drawn, forgotten, chunk=7)
    assert which[:3].tolist() == [4, 4, 2]
    assert distance[:3].tolist() == pytest.approx([0.01] * 3, rel=1e-4)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(3, 4), nn.Embedding(3, 4)

    def forward(self, sample, timestep, class_labels):
        return sample


X = images(4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: learned_condition(Two(), TASK, X, 1), UnsupportedModelError, "got a, b"),
        (lambda: learned_condition(Means(), TASK, X, 7), InvalidInputError, "among 0 to 4"),
        (lambda: learned_condition(Means(), TASK, X[:0], 1), InvalidInputError, "got none"),
        (lambda: relearning_curve(Means(), TASK, X, torch.zeros(3).long(), len), InvalidInputError, "4 images"),
        (lambda: relearning_curve(Means(), TASK, X, torch.zeros(4).long(), len, at=()), InvalidInputError, "'at'"),
        (lambda: memorised_images(X, X, X[:0]), InvalidInputError, "every part"),
        (lambda: memorised_images(X, X[..., :1], X), InvalidInputError, "one shape"),
        (lambda: memorised_images(X, X, X, ratio=2.0), InvalidInputError, "at most 1"),
        (lambda: memorised_images(X / 0, X, X), InvalidInputError, "finite"),
    ],
)
def test_bad_attacks(call, error, words):
    with pytest.raises(error, match=words):
        call()
