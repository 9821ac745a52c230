"""Alignment of denoisers: Gaussians in closed form, common noise, and what it says of small models of digits."""

import copy
import math
from dataclasses import replace

import pytest
import torch

import gunlearn as gu
from gunlearn.diffusion import Denoising, NoiseSchedule
from gunlearn.diffusion.metrics import ImageAlignment, ImageSampler, denoising_terms, image_alignment, step_weights
from gunlearn.errors import InvalidInputError
from gunlearn.metrics import align, standings


def schedule(steps):
    """So many of the 1000 steps of linear betas, which end in pure noise."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return (1 - beta).cumprod(0)[1000 // steps - 1 :: 1000 // steps]


def gaussian(mean, sd, bar):
    """The best denoiser of images that are normal around `mean`."""

    def sees(noisy, t, y):
        signal = bar[t].sqrt().float().view(-1, 1)
        variance = signal**2 * sd**2 + 1 - signal**2
        return (1 - signal**2).sqrt() * (noisy - signal * mean) / variance

    return sees


def images(mean, sd, count, dim=2):
    return mean + sd * torch.randn(count, dim, generator=torch.Generator().manual_seed(9))


def by_hand(bar, gap, sd, dim, weight):
    """Sum over steps of the weighted squared difference of two Gaussians' denoisers, which no sample changes."""
    return float((weight * bar * (1 - bar) * gap**2 / (bar * sd**2 + 1 - bar) ** 2).sum()) * dim


@pytest.mark.parametrize("form", ["epsilon", "elbo"])
def test_two_gaussians(form):
    bar, sd, gap = schedule(100), 0.7, 0.5
    p, q = gaussian(0.2, sd, bar), gaussian(0.2 + gap, sd, bar)
    count = 400 if form == "epsilon" else 3000
    x0, y = images(0.2, sd, count), torch.zeros(count)
    found = denoising_terms(x0, y, p, q, bar, form=form, weighting="kl", num_draws=40).per_sample()
    expected = by_hand(bar, gap, sd, 2, step_weights(bar, "kl"))
    error = float((found.mean(1).var() / count).sqrt())
    assert abs(float(found.mean()) - expected) < 4 * error
    assert 4 * error < 0.25 * expected  # so that the comparison says something
    simple = denoising_terms(x0, y, p, q, bar, form=form, num_draws=40).per_sample()
    error = float((simple.mean(1).var() / count).sqrt())
    assert abs(float(simple.mean()) - by_hand(bar, gap, sd, 1, 1 / 100)) < 4 * error
    other = denoising_terms(x0, y, q, p, bar, form=form, num_draws=40).per_sample()  # not images of q
    assert (abs(float(other.mean()) - by_hand(bar, gap, sd, 1, 1 / 100)) > 4 * error) == (form == "elbo")


def test_the_sum_over_many_steps_is_the_divergence_of_the_images():
    """Of fine steps: integrated over t the terms of two Gaussians give `gap^2 / 2 sd^2`."""
    bar, sd, gap = schedule(1000), 0.7, 0.5
    total = by_hand(bar, gap, sd, 1, step_weights(bar, "kl"))
    assert total == pytest.approx(gap**2 / (2 * sd**2), rel=0.02)
    assert by_hand(bar, gap, sd, 1, step_weights(bar)) > 2 * total  # the control


def test_weights_by_hand():
    bar = torch.tensor([0.9, 0.45])
    # beta, alpha: 0.1, 0.9; then 0.5, 0.5
    assert step_weights(bar, "kl").tolist() == pytest.approx([0.1 / (2 * 0.9 * 0.1), 0.5 / (2 * 0.5 * 0.55)], rel=1e-6)
    assert step_weights(bar).tolist() == [1, 1]
    with pytest.raises(InvalidInputError, match="leaves some signal"):
        step_weights(torch.tensor([0.9, 0.0]), "kl")


def test_every_model_reads_the_same_draws():
    seen = []

    def spy(noisy, t, y):
        seen.append((noisy, t, y))
        return torch.zeros_like(noisy)

    bar, x0 = schedule(10), images(0.0, 1.0, 7)
    state = torch.get_rng_state()
    whole = denoising_terms(x0, torch.arange(7), spy, lambda x, t, y: x, bar, num_draws=3)
    assert torch.equal(torch.get_rng_state(), state)
    first, seen = seen, []
    parts = denoising_terms(x0, torch.arange(7), spy, lambda x, t, y: x, bar, num_draws=3, batch_size=2)
    assert torch.allclose(whole.values, parts.values)
    assert torch.equal(torch.cat([t for _, t, _ in seen]), torch.cat([t for _, t, _ in first]))
    seen = []
    denoising_terms(x0, torch.arange(7), lambda x, t, y: x, spy, bar, num_draws=3)
    assert all(torch.equal(a, b) for one, two in zip(seen, first, strict=True) for a, b in zip(one, two, strict=True))
    steps = torch.cat([t for _, t, _ in first])
    assert 0 <= int(steps.min()) < int(steps.max()) < 10
    seen = []
    denoising_terms(x0, torch.arange(7), spy, spy, bar, num_draws=9, timesteps=(2, 4))
    assert {int(t) for _, part, _ in seen for t in part} == {2, 3}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"form": "mse"}, "form"),
        ({"weighting": "snr"}, "weighting"),
        ({"num_draws": 0}, "num_draws"),
        ({"timesteps": (3, 3)}, "timesteps"),
        ({"y": torch.zeros(3)}, "condition for each"),
        ({"q": lambda x, t, y: x * math.nan}, "NaN"),
    ],
)
def test_bad_terms(more, words):
    bar = schedule(10)
    given = {"y": torch.zeros(4), "p": gaussian(0, 1, bar), "q": gaussian(1, 1, bar), **more}
    with pytest.raises(InvalidInputError, match=words):
        denoising_terms(images(0.0, 1.0, 4), alphas_cumprod=bar, **given)


diffusion = pytest.importorskip("experiments.digits_diffusion.model")
SHORT = ImageSampler(n_samples=8, num_steps=4)


@pytest.fixture(scope="module")
def untrained():
    return diffusion.network(0), diffusion.network(1)


@pytest.mark.parametrize("estimator", ["epsilon", "elbo"])
def test_a_retrained_model_agrees_with_itself_exactly(untrained, estimator):
    one, two = untrained
    task, digits = diffusion.denoising(), torch.tensor([3, 5])
    for other in (one, copy.deepcopy(one)):
        same = image_alignment(one, other, task, digits, diffusion.SHAPE, SHORT, estimator, num_draws=2)
        assert (same.value, same.precision, same.recall, same.error) == (0, 0, 0, 0)
        assert (same.items == 0).all()
    found = image_alignment(one, two, task, digits, diffusion.SHAPE, SHORT, estimator, num_draws=2)
    assert found.items.shape == (16,)
    assert found.value != 0
    assert found.error > 0
    if estimator == "epsilon":
        assert found.precision > 0 < found.recall
    guided = ImageSampler(n_samples=2, num_steps=2, guidance=2.0)
    with pytest.warns(UserWarning, match="no divergence"):
        image_alignment(one, two, task, digits, diffusion.SHAPE, guided, num_draws=1)


def test_images_out_of_any_range_are_warned_of(untrained):
    wild = ImageAlignment(
        Denoising(NoiseSchedule(diffusion.scheduler().alphas_cumprod)), torch.tensor([3]), diffusion.SHAPE
    )
    with pytest.warns(UserWarning, match="clip=1.0"):
        wild.draw(untrained[0])
    ImageAlignment(wild.task, wild.conditions, wild.shape, replace(SHORT, clip=1.0)).draw(untrained[0])


def test_what_a_model_predicts_makes_no_difference(untrained):
    """A model of v, whose v says the noise of a model of epsilon, is at distance 0 from it."""
    one, _ = untrained
    epsilon, v = diffusion.denoising(), diffusion.denoising("v_prediction")

    class Velocity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = one

        def forward(self, x, t, class_labels):
            return epsilon.noise_schedule.convert(
                self.inner(x, t, class_labels).sample, x, t, "v_prediction", "epsilon"
            )

    digits = torch.tensor([3])
    supplier = ImageAlignment(epsilon, digits, diffusion.SHAPE, SHORT, num_draws=2)
    of_v = ImageAlignment(v, digits, diffusion.SHAPE, SHORT, num_draws=2)
    images = torch.randn(8, *diffusion.SHAPE, generator=torch.Generator().manual_seed(0))
    t = torch.full((8,), 100)
    y = torch.full((8,), 3)
    with torch.no_grad():
        assert torch.allclose(supplier.sees(one)(images, t, y), of_v.sees(Velocity())(images, t, y), atol=1e-5)
    assert align(of_v.terms(images, Velocity(), Velocity()), supplier.terms(images, one, one)).value == 0


@pytest.mark.slow
def test_good_scores_and_farther_than_the_original():
    """Selective amnesia draws hardly a 3 and all other digits, and ends farther from retraining than doing nothing.

    The control is ESD, which ends nearer.
    """
    original, digits = diffusion.trained(), torch.tensor([3])
    x, y = diffusion.digits()
    references = [diffusion.trained(3, seed) for seed in (100, 101)]
    options = {"steps": 100, "lr": 2e-4, "batch_size": 32}
    methods = {"selective_amnesia": {"penalty_weight": 0.0}, "esd": {"retain_weight": 1.0, "source": "data"}}
    task, request = diffusion.denoising(), gu.ForgetItems(mask=y == 3)
    models = {
        name: gu.unlearn(original, (x, y), request, name, task, **options, **own).model for name, own in methods.items()
    }
    for name, least in (("selective_amnesia", 0.5), ("esd", 0.9)):
        forgotten, kept = diffusion.accuracies(models[name], 3)
        assert forgotten >= least
        assert kept >= 0.9
    assert diffusion.accuracies(original, 3)[0] <= 0.1
    for estimator in ("epsilon", "elbo"):
        supplier = ImageAlignment(task, digits, diffusion.SHAPE, ImageSampler(n_samples=64), estimator, num_draws=16)
        found = standings({**models, "original": original}, references, supplier, original)
        amnesia, before, esd = (found[name].interval for name in ("selective_amnesia", "original", "esd"))
        assert amnesia[0] > before[1] > before[0] > esd[1]
        assert found["selective_amnesia"].gain_interval[1] < 0 < found["esd"].gain_interval[0]
