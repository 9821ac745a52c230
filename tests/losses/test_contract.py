"""What every loss must do, run over all rows of the case table."""

import copy
import importlib
import math
import pickle
import pkgutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

import gunlearn.losses
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import LOSSES, Loss, Prediction
from tests.losses.cases import CASES, FIELDS, REFUSED, Case, expected, make_prediction, slopes, with_grad

per_case = pytest.mark.parametrize("case", CASES, ids=str)
MASK = torch.tensor([True, False, True, True, False])
WEIGHT = torch.tensor([0.5, 7.0, 2.0, 0.0, -1.0], dtype=torch.float64)


def grads(loss: torch.Tensor, prediction: Prediction) -> dict[str, torch.Tensor]:
    """Gradients by field; fields that the loss does not read have none."""
    leaves = [getattr(prediction, name) for name in FIELDS]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return {name: g for name, g in zip(FIELDS, found, strict=True) if g is not None}


def test_every_registered_loss_has_a_row() -> None:
    assert {type(case.loss) for case in CASES} == set(LOSSES.values())
    assert all(name == loss.name and name in repr(LOSSES) for name, loss in LOSSES.items())


def test_every_loss_of_the_package_is_registered() -> None:
    modules = [
        importlib.import_module(f"gunlearn.losses.{info.name}")
        for info in pkgutil.iter_modules(gunlearn.losses.__path__)
    ]
    defined = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Loss) and value is not Loss
    }
    assert defined == set(LOSSES.values())
    assert gunlearn.losses.__all__ == sorted(gunlearn.losses.__all__, key=lambda n: (not n.isupper(), n))
    assert {loss.__name__ for loss in defined} <= set(gunlearn.losses.__all__)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_class_attributes_are_fit_for_tables(loss: type[Loss]) -> None:
    assert loss.name == loss.name.lower()
    assert loss.name.isidentifier()
    assert 0 < len(loss.summary) < 100
    assert "\n" not in loss.summary
    assert set() < set(loss.level) <= {"item", "token", "embedding"}
    assert (loss.paper is None) == (loss.arxiv is None)
    assert isinstance(loss.needs_reference, bool)
    assert isinstance(loss.bounded_below, bool)
    assert loss.__doc__


@per_case
@pytest.mark.parametrize("num_classes", [None, 4])
def test_values_equal_plain_loops(case: Case, num_classes: int | None) -> None:
    current, reference = (make_prediction(seed, num_classes=num_classes) for seed in (0, 1))
    if case.categorical and num_classes is None:
        with pytest.raises(InvalidInputError, match=r"Expected 'logits' \[5, num_classes\].*\(got \(5,\)\)"):
            case.values(current, reference)
        return
    values = case.values(current, reference)
    torch.testing.assert_close(values, torch.tensor(expected(case, current, reference), dtype=torch.float64))


@per_case
def test_mean_masks_both_and_weighs_the_numerator_alone(case: Case) -> None:
    current, reference = make_prediction(0), make_prediction(1)
    total = case(current.replace(mask=MASK, weight=WEIGHT), reference)
    kept = [i for i in range(5) if MASK[i]]
    values = expected(case, current, reference)
    assert total.shape == ()
    assert total.item() == pytest.approx(sum(float(WEIGHT[i]) * values[i] for i in kept) / len(kept))
    # Controls: without the mask, or with normalised weights, the number is another one.
    assert total.item() != pytest.approx(case(current.replace(weight=WEIGHT), reference).item())
    assert total.item() != pytest.approx(sum(float(WEIGHT[i]) * values[i] for i in kept) / float(WEIGHT[MASK].sum()))


@per_case
def test_reductions_agree(case: Case) -> None:
    current, reference = make_prediction(0).replace(mask=MASK), make_prediction(1)
    mean, total, each = (
        replace(case, loss=replace(case.loss, reduction=reduction))(current, reference)
        for reduction in ("mean", "sum", "none")
    )
    assert each.shape == (5,)
    assert (each[~MASK] == 0).all()
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(total / 3, mean)


@per_case
@pytest.mark.parametrize("num_tokens", [None, 3])
def test_gradients_first_and_second_order(case: Case, num_tokens: int | None) -> None:
    if case.slope is not None:
        check_slope(case, num_tokens)
        return
    # Control: a detached or rounded step inside a loss fails here.
    current, reference = with_grad(make_prediction(0, 3, num_tokens)), make_prediction(1, 3, num_tokens)
    mask = torch.ones(current.log_prob.shape, dtype=torch.bool)
    mask[1] = False
    leaves = tuple(getattr(current, name) for name in FIELDS)

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        changed = current.replace(mask=mask, **dict(zip(FIELDS, tensors, strict=True)))
        # Unread leaves must take part, or the checker complains about their missing gradients.
        return case(changed, reference) + 0 * sum(t.square().sum() for t in tensors)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
    assert grads(case(current, reference), current)


def check_slope(case: Case, num_tokens: int | None) -> None:
    """Losses that hold a part of themselves constant: the derivative of each value is as the papers say."""
    current, reference = with_grad(make_prediction(0, 3, num_tokens)), make_prediction(1, 3, num_tokens)
    name = case.loss.reads[0]
    found = torch.autograd.grad(case.values(current, reference).sum(), getattr(current, name))[0]
    flat = [p.detach().map(lambda t: t if num_tokens is None else t.flatten(0, 1)) for p in (current, reference)]
    torch.testing.assert_close(found.reshape(getattr(flat[0], name).shape), torch.tensor(slopes(case, *flat)))


@per_case
@pytest.mark.parametrize(("bad", "num_tokens"), [(math.nan, 3), (math.inf, None)])
def test_masked_entries_have_exactly_no_say(case: Case, bad: float, num_tokens: int | None) -> None:
    mask = MASK if num_tokens is None else torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) < 0.6
    current, reference = make_prediction(0, 5, num_tokens), make_prediction(1, 5, num_tokens)
    clean = case(current.replace(mask=mask), reference)

    def spoil(prediction: Prediction) -> Prediction:
        spoiled = {}
        for name in FIELDS:
            spoiled[name] = getattr(prediction, name).clone()
            spoiled[name][~mask] = bad
        spoiled["label"] = prediction.label.masked_fill(~mask, -100)
        return prediction.replace(**spoiled)

    weight = torch.ones(mask.shape if case.values(current, reference).shape == mask.shape else (5,))
    if weight.shape == mask.shape:
        weight[~mask] = bad
    dirty = with_grad(spoil(current)).replace(mask=mask, weight=weight)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either, from the reference for one
        loss = case(dirty, spoil(reference))
        found = grads(loss, dirty)
    torch.testing.assert_close(loss, clean, rtol=1e-12, atol=0)
    read = set(case.loss.reads) & set(FIELDS)
    assert read <= set(found)
    for name in read:
        assert (found[name][~mask] == 0).all()
        assert found[name][mask].isfinite().all()
        assert (found[name][mask] != 0).any()
    if math.isnan(bad):  # control: with the mask dropped it shows
        assert case(dirty.replace(mask=None, weight=None, label=current.label), reference).isnan()


@per_case
def test_nan_among_items_that_count_is_not_hidden(case: Case) -> None:
    current, reference = make_prediction(0), make_prediction(1)
    spoiled = {name: getattr(current, name).index_fill(0, torch.tensor([0]), float("nan")) for name in FIELDS}
    assert case(current.replace(mask=MASK, **spoiled), reference).isnan()


@per_case
@pytest.mark.parametrize("num_tokens", [None, 3])
@pytest.mark.parametrize("num_items", [0, 4])
def test_nothing_left_is_a_zero_on_the_graph(case: Case, num_items: int, num_tokens: int | None) -> None:
    current = with_grad(make_prediction(0, num_items, num_tokens))
    current = current.replace(mask=torch.zeros(current.log_prob.shape, dtype=torch.bool) if num_items else None)
    loss = case(current, make_prediction(1, num_items, num_tokens))
    assert loss.item() == 0
    assert loss.requires_grad
    assert all((g == 0).all() for g in grads(loss, current).values())


@per_case
def test_left_and_right_padding_agree(case: Case) -> None:
    current, reference = make_prediction(0, 4, 3), make_prediction(1, 4, 3)

    def pad(prediction: Prediction, left: int, right: int) -> Prediction:
        def grow(t: torch.Tensor, fill: float) -> torch.Tensor:
            sides = [t.new_full((t.size(0), n, *t.shape[2:]), fill) for n in (left, right)]
            return torch.cat((sides[0], t, sides[1]), 1)

        grown = {name: grow(getattr(prediction, name), float("nan")) for name in FIELDS}
        grown["label"] = grow(prediction.label, -100)
        return Prediction(**grown, mask=grow(torch.ones_like(prediction.log_prob, dtype=torch.bool), False))

    results = [case(pad(current, *n), pad(reference, *n)) for n in ((0, 0), (4, 0), (0, 4), (1, 1))]
    for result in results:
        torch.testing.assert_close(result, case(current, reference))


@per_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_precisions(case: Case, dtype: torch.dtype) -> None:
    current, reference = with_grad(make_prediction(0, dtype=dtype)), make_prediction(1, dtype=dtype)
    loss = case(current, reference)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # The same rounded inputs in float64: what is left is the loss's own rounding, at most that of float32.
    exact = case(*(p.map(lambda t: t.detach().double() if t.is_floating_point() else t) for p in (current, reference)))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-6)
    found = grads(loss, current)
    assert all(g.dtype == dtype and g.isfinite().all() for g in found.values())
    assert found


@per_case
def test_reference_is_a_constant(case: Case) -> None:
    current, reference = with_grad(make_prediction(0)), with_grad(make_prediction(1))
    loss = case(current, reference)
    assert grads(loss, current)
    assert not grads(loss, reference)


@per_case
def test_needs_reference_tells_the_truth(case: Case) -> None:
    part = dict.fromkeys(case.loss.on_parts, make_prediction(0))
    if case.loss.needs_reference:
        with pytest.raises(InvalidInputError, match="Expected reference predictions"):
            case.loss(part)
        with pytest.raises(InvalidInputError, match=r"reference.*got 'other'"):
            case.loss(part, {"other": make_prediction(1)})
    else:
        assert case.loss(part).isfinite()
        torch.testing.assert_close(case.loss(part), case.loss(part, {case.loss.on: make_prediction(1)}))


@per_case
def test_bounded_below_tells_the_truth(case: Case) -> None:
    current, reference = make_prediction(0, 64), make_prediction(1, 64)
    lowest = min(
        float(case.values(current.replace(**{name: far * getattr(current, name) for name in FIELDS}), reference).min())
        for far in (1, 3, 10, 1e4)
    )
    assert (lowest > -1) if case.loss.bounded_below else (lowest < -1e3)


@pytest.mark.parametrize("case", [case for case in CASES if case.loss.needs_reference], ids=str)
def test_masks_of_both_predictions_count(case: Case) -> None:
    current, reference = make_prediction(0), make_prediction(1)
    other = torch.tensor([True, True, True, False, True])
    torch.testing.assert_close(
        case(current.replace(mask=MASK), reference.replace(mask=other)),
        case(current.replace(mask=MASK & other), reference),
    )
    torch.testing.assert_close(
        case(current, reference.replace(mask=other)), case(current.replace(mask=other), reference)
    )


@per_case
def test_missing_or_wrong_input_is_named(case: Case) -> None:
    loss, current, reference = case.loss, make_prediction(0), make_prediction(1)
    with pytest.raises(InvalidInputError, match=rf"'{loss.on}'.*got 'first', 'second'"):
        loss({"first": current, "second": current}, reference)
    with pytest.raises(InvalidInputError, match="got nothing"):
        loss({}, reference)
    with pytest.raises(InvalidTypeError, match="got Tensor"):
        loss(current.log_prob, reference)
    for name in set(loss.reads) - {"log_prob"}:
        with pytest.raises(InvalidInputError, match=f"current .* with '{name}'"):
            case(current.replace(**{name: None}), reference)
        if not loss.needs_reference:
            continue
        with pytest.raises(InvalidInputError, match=f"reference .* with '{name}'"):
            case(current, reference.replace(**{name: None}))
    if loss.needs_reference:
        with pytest.raises(InvalidInputError, match=rf"(?s){loss.name}.*\(got "):
            case(current, make_prediction(1, num_items=1))


@per_case
def test_values_objects(case: Case) -> None:
    loss = case.loss
    for copied in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss), eval(repr(loss), vars(gunlearn.losses))):
        assert copied == loss
        assert hash(copied) == hash(loss)
        torch.testing.assert_close(
            replace(case, loss=copied)(make_prediction(0), make_prediction(1)),
            case(make_prediction(0), make_prediction(1)),
            rtol=0,
            atol=0,
        )
    with pytest.raises(FrozenInstanceError):
        loss.on = "elsewhere"
    elsewhere = type(loss)(**{**vars(loss), "on": "elsewhere"})
    assert elsewhere.parts == ("elsewhere", *loss.parts[1:])
    assert elsewhere != loss
    assert eval(repr(elsewhere), vars(gunlearn.losses)) == elsewhere


@pytest.mark.parametrize(("build", "field"), REFUSED)
def test_settings_that_cannot_be_meant_are_refused(build: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"(?s)Expected '{field}'.*\(got "):
        build()


@pytest.mark.parametrize(("name", "wrong"), [("reduction", "median"), ("on", ""), ("on", None)])
def test_wrong_fields_are_refused_at_construction(name: str, wrong: object) -> None:
    for case in CASES:
        with pytest.raises(InvalidInputError, match=rf"Expected '{name}'.*\(got "):
            type(case.loss)(**{**vars(case.loss), name: wrong})
