"""Methods that only denoisers have, against their formulas."""

import resource
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import gunlearn as gu
from gunlearn.diffusion import Denoising, NoiseSchedule, sample
from gunlearn.diffusion.methods.concept_ablation import ConceptAblation
from gunlearn.diffusion.methods.esd import ESD
from gunlearn.diffusion.methods.selective_amnesia import SelectiveAmnesia
from gunlearn.diffusion.noised_items import draw_items
from gunlearn.diffusion.pipelines import parts_of
from gunlearn.diffusion.replaced import same_conditions
from gunlearn.diffusion.sampler import Sampling, first_noise, path
from gunlearn.errors import GunlearnError, InvalidInputError, UnsupportedModelError
from gunlearn.methods import METHODS, GradientMethod, Problem, build_method
from tests.diffusion.test_denoising import BAR, images, task
from tests.diffusion.tiny_pipelines import ANIMALS, untrained_pipeline
from tests.tasks.cases import Denoiser

#: A row for each method and variant, with options that it refuses.
SHORT = {"steps": 2, "lr": 1e-2, "batch_size": 8}
CASES: dict[str, tuple[dict[str, Any], tuple[dict[str, Any], ...]]] = {
    "esd:default": ({}, ({"eta": -1.0}, {"source": "web"}, {"trajectories": 0}, {"group": "y"})),
    "esd:x": ({}, ()),
    "esd:u": ({}, ()),
    "esd:strict": ({}, ()),
    "concept_ablation:default": ({"anchor": 0}, ({"target": "x"}, {"num_samples": 0})),
    "concept_ablation:noise": ({"anchor": 0}, ()),
    "selective_amnesia:default": ({"fisher_items": 4}, ({"penalty_weight": -1.0}, {"fisher_items": 0}, {"probes": 0})),
}  # fmt: skip
OURS = {name: cls for name, cls in METHODS.items() if cls.__module__.startswith("gunlearn.diffusion.")}


def test_every_method_for_denoisers_has_a_row() -> None:
    """Those in closed form have theirs in `test_uce.py`."""
    trained = {n: c for n, c in OURS.items() if issubclass(c, GradientMethod)}
    assert set(CASES) == {f"{n}:{v}" for n, c in trained.items() for v in c.variants}
    assert all(c.name == n and c.summary and c.tasks == ("denoising",) for n, c in OURS.items())


@pytest.mark.parametrize("spec", CASES)
@pytest.mark.filterwarnings("ignore:no measurable effect")
def test_the_contract(spec: str) -> None:
    options, bad = CASES[spec]
    how, data = Denoising(NoiseSchedule(BAR), null=3), images(24)
    request = gu.ForgetItems(mask=data[1] == 1)
    model = Denoiser()
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    if spec.partition(":")[2] in ("x", "strict"):
        with pytest.raises(UnsupportedModelError, match="without cross-attention"):
            gu.unlearn(model, data, request, spec, how, **options, **SHORT)
        return
    runs = [gu.unlearn(model, data, request, spec, how, seed=s, **options, **SHORT) for s in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    first, again, other = ([p.detach() for p in run.model.parameters()] for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, before, strict=True))
    for wrong in bad:
        with pytest.raises(GunlearnError):
            gu.unlearn(model, data, request, spec, how, **{**options, **wrong})


def problem(model: Any, data: Any, how: Denoising, forget: int = 1) -> Problem:
    partition = gu.ForgetItems(mask=data[1] == forget).resolve(how.check_data(data))
    return Problem(model, model, partition, how)


def test_esd_aims_at_guidance_away_from_the_concept_and_reads_no_image() -> None:
    torch.manual_seed(0)
    model, how = Denoiser(), task()
    x0, y = images(24)
    pool = ESD(eta=0.7, trajectories=5, sampling_steps=4).pool(problem(model, (x0, y), how))
    assert (pool.num_items, set(pool.y.tolist())) == (20, {1})
    with torch.no_grad():
        own, null = (model(pool.noisy, pool.t, torch.full_like(pool.y, c)) for c in (1, 3))
    torch.testing.assert_close(pool.target, null - 0.7 * (own - null))
    other = ESD(eta=0.7, trajectories=5, sampling_steps=4).pool(problem(model, (5 * x0, y), how))
    assert torch.equal(pool.noisy, other.noisy)
    with pytest.raises(InvalidInputError, match="null"):
        ESD().pool(problem(model, (x0, y), Denoising(NoiseSchedule(BAR))))


@pytest.mark.parametrize("group", ["x", "u", "strict"])
def test_only_the_layers_of_a_group_move(group: str) -> None:
    parts = parts_of(untrained_pipeline())
    y = parts.encode(ANIMALS).repeat(3, 1, 1)
    data = (torch.zeros(12, *parts.shape), y)
    options = {"trajectories": 2, "sampling_steps": 2, **SHORT}
    result = gu.unlearn(parts.denoiser, data, gu.ForgetItems(index=[0, 4]), f"esd:{group}", parts.task(), **options)
    before = dict(parts.denoiser.named_parameters())
    for name, weight in result.model.named_parameters():
        inside = "attn2." in name if group == "x" else "attn2.to_k" in name or "attn2.to_v" in name
        inside = "attn2." not in name if group == "u" else inside
        assert inside or torch.equal(weight, before[name]), name
    assert result.notes["group"] == group


def test_concept_ablation_teaches_the_anchor() -> None:
    torch.manual_seed(0)
    model, how, data = Denoiser(), task(), images(24)
    method = ConceptAblation(anchor=2)
    parts = method.parts(problem(model, data, how), ("forget",))
    items = parts.sample(["forget"])["forget"]
    with torch.no_grad():
        wanted = model(items.noisy, items.t, torch.full_like(items.y, 2))
    assert set(items.y.tolist()) == {1}
    torch.testing.assert_close(items.target, wanted)
    assert method.notes(problem(model, data, how), parts)["anchor_images"] == "8 retained"
    sampled = ConceptAblation(anchor=3, num_samples=4, sampling_steps=2)
    drawn = sampled.parts(problem(model, data, how), ("forget",))
    assert sampled.notes(problem(model, data, how), drawn)["anchor_images"] == "4 sampled"
    for anchor, said in ((1, "not to be forgotten"), (torch.zeros(2, 2), "like the conditions")):
        with pytest.raises(InvalidInputError, match=said):
            ConceptAblation(anchor=anchor).parts(problem(model, data, how), ("forget",))


def test_selective_amnesia_is_pulled_back_by_the_fisher_information() -> None:
    torch.manual_seed(0)
    model, how, data = Denoiser(), task(), images(24)
    state = torch.get_rng_state()
    method = SelectiveAmnesia(fisher_items=6, probes=None, batch_size=None)
    ((start, fisher), *_) = method.measured(problem(model, data, how))
    torch.set_rng_state(state)
    kept = (data[1] != 1).nonzero().view(-1)
    rows = kept[torch.randint(kept.numel(), (6,))]
    items = draw_items(how.noise_schedule, data[0][rows], data[1][rows])
    losses = (model(items.noisy, items.t, items.y) - items.target).square().mean((1, 2, 3))
    found = [torch.autograd.grad(loss, model.conv.weight, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(fisher, 20**2 * torch.stack(found).square().mean(0))
    assert torch.equal(start, model.conv.weight)

    def moved(weight: float) -> float:
        options = {**SHORT, "steps": 40, "lr": 1e-2, "retain_weight": 0.0, "max_grad_norm": None}
        request = gu.ForgetItems(mask=data[1] == 1)
        result = gu.unlearn(model, data, request, "selective_amnesia", how, penalty_weight=weight, **options)
        return float((result.model.conv.weight - model.conv.weight).norm())

    assert moved(1e4) < 0.2 * moved(0.0)


@pytest.mark.parametrize("steps", [None, (0, 5), (15, 20)])
def test_the_fisher_information_counts_the_steps_that_are_drawn(steps: tuple[int, int] | None) -> None:
    """Against each item's own gradient; the control is the number of all steps, which is 4 times as many."""
    torch.manual_seed(0)
    model, how, data = Denoiser(), task(timesteps=steps), images(24)
    state = torch.get_rng_state()
    method = SelectiveAmnesia(fisher_items=6, probes=None, batch_size=None)
    ((_, fisher), *_) = method.measured(problem(model, data, how))
    torch.set_rng_state(state)
    kept = (data[1] != 1).nonzero().view(-1)
    rows = kept[torch.randint(kept.numel(), (6,))]
    items = draw_items(how.noise_schedule, data[0][rows], data[1][rows], steps)
    losses = (model(items.noisy, items.t, items.y) - items.target).square().mean((1, 2, 3))
    found = [torch.autograd.grad(loss, model.conv.weight, retain_graph=True)[0] for loss in losses]
    count = 20 if steps is None else 5
    torch.testing.assert_close(fisher, count**2 * torch.stack(found).square().mean(0))


def test_a_stand_in_is_found_among_many_retained_items_of_forgotten_conditions() -> None:
    """One item of another condition among 3000, which a look at a few hundred would miss."""
    y = torch.zeros(3000, dtype=torch.long)
    y[-1] = 2
    how, model = task(), Denoiser()
    request = gu.ForgetItems(index=torch.arange(10))
    parts = how.relabelled(how.parts(request.resolve(how.check_data((torch.zeros(3000, 1, 4, 4), y)))), model)
    items = parts.sample(["forget"])["forget"]
    with torch.no_grad():
        wanted = model(items.noisy, items.t, torch.full_like(items.y, 2))
    torch.testing.assert_close(items.target, wanted)


def test_embeddings_are_compared_without_all_pairs_in_memory() -> None:
    """2000 embeddings of 77 x 64 beside 400 would take 3.9 GB as booleans at once; each comparison takes 10 MB."""
    others = torch.randn(400, 77, 64, generator=torch.Generator().manual_seed(0))
    y = others.repeat(5, 1, 1)
    y[1000:, 0, 0] += 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    same = same_conditions(y, others)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # in kB
    assert torch.equal(same.nonzero(), torch.stack([torch.arange(1000), torch.arange(1000) % 400], 1))
    assert same_conditions(torch.tensor([1, 2]), torch.tensor([2])).tolist() == [[False], [True]]
    assert same_conditions(y[:2], others[:0]).shape == (2, 0)


class Unread(Tensor):
    """Images of which no more than one may be read at once."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        assert found.size(0) <= 1
        return found.as_subclass(Tensor)


@pytest.mark.parametrize("method", [ESD(trajectories=5), ConceptAblation(anchor=3, num_samples=4)])
def test_images_are_not_loaded_for_their_shape_alone(method: Any) -> None:
    model, how, (x0, y) = Denoiser(), task(), images(24)
    asked = problem(model, (x0, y), how)
    asked.partition.data["x"] = x0.as_subclass(Unread)
    found = method.pool(asked).noisy if isinstance(method, ESD) else method.images(asked)[0]
    assert found.shape[1:] == x0.shape[1:]


def test_random_labels_of_a_denoiser_are_retained_conditions() -> None:
    torch.manual_seed(0)
    model, how, data = Denoiser(), task(), images(24)
    parts = how.relabelled(how.parts(problem(model, data, how).partition), model)
    items = parts.sample(["forget"])["forget"]
    with torch.no_grad():
        said = {c: model(items.noisy, items.t, torch.full_like(items.y, c)) for c in (0, 2)}
    assert set(items.y.tolist()) == {1}
    assert any(torch.allclose(items.target, one) for one in said.values())
    same = gu.ForgetItems(index=[0, 1, 2]).resolve(how.check_data(data))
    with pytest.raises(InvalidInputError, match="not forgotten"):
        how.relabelled(how.parts(same), model)


def test_a_masked_weight_of_a_denoiser_moves_exactly_nothing() -> None:
    model, data = Denoiser(), images(24)
    request = gu.ForgetItems(mask=data[1] == 1)
    options = {**SHORT, "weight_decay": 0.1, "saliency": 0.5}
    result = gu.unlearn(model, data, request, "random_label", task(), **options)
    moved = torch.cat([(a != b).view(-1) for a, b in zip(result.model.parameters(), model.parameters(), strict=True)])
    assert 0 < int(moved.sum()) <= (moved.numel() + 1) // 2


def test_sampling_ends_in_the_images_of_the_best_denoiser() -> None:
    from tests.diffusion.test_denoising import oracle_task

    model, how, (x0, y) = oracle_task("v_prediction", "v_prediction")
    drawn = sample(model, how, y, (1, 4, 4), num_steps=5)
    torch.testing.assert_close(drawn, x0, atol=1e-4, rtol=0)
    states = list(path(model, how, y, first_noise(model, y, (1, 4, 4), 0), Sampling(num_steps=5)))
    assert [int(t[0]) for _, t, _ in states] == [19, 14, 10, 5, 0]
    assert all(torch.equal(less, noisy) for (_, _, less), (noisy, _, _) in pairwise(states))
    assert torch.equal(states[-1][2], drawn)
    guided = sample(model, replace_null(how, 0), y[:3], (1, 4, 4), num_steps=5, guidance=2.0)
    torch.testing.assert_close(guided, 2 * x0[:3] - x0[:1], atol=1e-3, rtol=0)


def replace_null(how: Denoising, null: int) -> Denoising:
    return Denoising(replace(how.noise_schedule), null=null)


def test_salun_is_random_label_with_a_mask_and_the_same_settings() -> None:
    masked, plain = (build_method(name, {}, task()) for name in ("salun", "random_label"))
    assert (masked.lr, masked.batch_size, masked.epochs) == (plain.lr, plain.batch_size, plain.epochs)
    assert (masked.saliency, plain.saliency) == (0.5, None)
