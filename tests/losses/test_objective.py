"""Losses compose like numbers."""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

import gunlearn.losses
from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.losses import NLL, NPO, GradientAscent, KLToReference, Objective, TopologicalEntropy, as_objective
from tests.losses.cases import make_prediction, with_grad

CURRENT = {"forget": make_prediction(0), "retain": make_prediction(1, 7)}
REFERENCE = {"forget": make_prediction(2), "retain": make_prediction(3, 7)}
MIXED = NPO(beta=5) + 1.5 * NLL(on="retain") + -0.5 * TopologicalEntropy()


def test_total_is_the_weighted_sum() -> None:
    value = MIXED(CURRENT, REFERENCE)
    by_hand = (
        NPO(beta=5)(CURRENT, REFERENCE)
        + 1.5 * NLL(on="retain")(CURRENT)
        - 0.5 * TopologicalEntropy()(CURRENT, REFERENCE)
    )
    torch.testing.assert_close(value.total, by_hand)
    assert list(value.terms) == ["npo(forget)", "nll(retain)", "topological_entropy(forget)"]
    torch.testing.assert_close(value.terms["nll(retain)"], NLL(on="retain")(CURRENT))  # unweighted


def test_total_is_differentiable_and_terms_are_detached() -> None:
    current = {name: with_grad(part) for name, part in CURRENT.items()}
    value = MIXED(current, REFERENCE)
    grad = torch.autograd.grad(value.total, current["retain"].log_prob)[0]
    torch.testing.assert_close(grad, torch.full_like(grad, -1.5 / 7))
    assert not any(term.requires_grad for term in value.terms.values())


@pytest.mark.parametrize(
    ("objective", "terms"),
    [
        (NLL() + NPO(), ((1, NLL()), (1, NPO()))),
        (2 * NLL(), ((2, NLL()),)),
        (NLL() * 2.5, ((2.5, NLL()),)),
        (np.float32(2) * as_objective(NLL()), ((2, NLL()),)),
        (2 * (NLL() + 3 * NPO()), ((2, NLL()), (6, NPO()))),
        ((NLL() + NPO()) + (NLL() + NPO()), ((1, NLL()), (1, NPO()), (1, NLL()), (1, NPO()))),
        (NLL() + (NPO() + NLL()), ((1, NLL()), (1, NPO()), (1, NLL()))),
        (sum([NLL(), 2 * NPO(), GradientAscent()]), ((1, NLL()), (2, NPO()), (1, GradientAscent()))),
        (sum([NLL()]), ((1, NLL()),)),
        (NLL() - NLL(on="forget"), ((1, NLL()), (-1, NLL(on="forget")))),
        (NLL() - (NPO() - GradientAscent()), ((1, NLL()), (-1, NPO()), (1, GradientAscent()))),
        (-NLL(), ((-1, NLL()),)),
        (0 * NLL(), ((0, NLL()),)),
    ],
)
def test_algebra(objective: Objective, terms: tuple) -> None:
    assert isinstance(objective, Objective)
    assert objective.terms == terms
    assert objective == Objective(terms)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: NLL() + 1,
        lambda: 1 + NLL(),
        lambda: NLL() + "NPO",
        lambda: NLL() - 1,
        lambda: NLL() * NPO(),
        lambda: NLL() * "2",
        lambda: NLL() * True,
        lambda: NLL() * torch.tensor(2.0),
        lambda: (NLL() + NPO()) * None,
    ],
)
def test_unknown_operands_are_type_errors(operation: object) -> None:
    with pytest.raises(TypeError):
        operation()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        *(
            (lambda weight=weight: weight * NLL(), InvalidInputError, r"weight of NLL\(on='retain'\)' to be a finite")
            for weight in (float("nan"), float("inf"), float("-inf"))
        ),
        (lambda: Objective(()), InvalidInputError, "at least one loss"),
        (lambda: Objective(((1.0, NLL() + NPO()),)), InvalidTypeError, "Expected a Loss in an objective"),
        (lambda: Objective(((1.0, len),)), InvalidTypeError, "Expected a Loss in an objective"),
        (lambda: NLL(reduction="none") + NPO(), InvalidInputError, "reduces to one number"),
        (lambda: as_objective(1.0), InvalidTypeError, "got float"),
        (lambda: MIXED(CURRENT["forget"], REFERENCE), InvalidInputError, "parts forget, retain"),
        (lambda: (NPO() + KLToReference())(CURRENT, REFERENCE["forget"]), InvalidInputError, "parts forget, retain"),
    ],
)
def test_refusals(build: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_parts() -> None:
    objective = NLL() + NPO() + KLToReference() + GradientAscent(on="other") + NLL()
    assert objective.parts == ("retain", "forget", "other")
    assert objective.reference_parts == ("forget", "retain")
    for loss in (NPO(), NLL(on="somewhere")):
        assert loss.parts == as_objective(loss).parts == (loss.on,)
        assert (
            loss.reference_parts == as_objective(loss).reference_parts == ((loss.on,) if loss.needs_reference else ())
        )
        assert as_objective(loss).terms == ((1.0, loss),)
    assert as_objective(objective) is objective


def test_labels_are_unique() -> None:
    objective = NPO(beta=1) + NLL() + NPO(beta=2) + NPO(beta=1) + NPO(on="retain")
    assert objective.labels == ("npo(forget)", "nll(retain)", "npo(forget)#2", "npo(forget)#3", "npo(retain)")
    terms = objective(CURRENT, REFERENCE).terms
    assert tuple(terms) == objective.labels
    torch.testing.assert_close(terms["npo(forget)#2"], NPO(beta=2)(CURRENT, REFERENCE))


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (NPO(beta=5) + NLL(), "NPO(beta=5) + 1.0 * NLL(on='retain')"),
        (2 * NPO() + -0.5 * NLL(on="forget"), "2.0 * NPO() + -0.5 * NLL(on='forget')"),
        (as_objective(NLL()), "1.0 * NLL(on='retain')"),
        (11.0 * NLL() + NPO(), "11.0 * NLL(on='retain') + 1.0 * NPO()"),
    ],
)
def test_repr_is_the_expression(objective: Objective, text: str) -> None:
    assert repr(objective) == text
    assert eval(text, vars(gunlearn.losses)) == objective


def test_pickle_and_deepcopy() -> None:
    for copied in (pickle.loads(pickle.dumps(MIXED)), copy.deepcopy(MIXED)):
        assert copied == MIXED
        assert hash(copied) == hash(MIXED)
        torch.testing.assert_close(copied(CURRENT, REFERENCE).total, MIXED(CURRENT, REFERENCE).total, rtol=0, atol=0)


def test_a_bare_prediction_serves_one_part_alone() -> None:
    alone = NPO() + GradientAscent()
    same = alone(CURRENT["forget"], REFERENCE["forget"]).total
    torch.testing.assert_close(same, alone(CURRENT, REFERENCE).total)
