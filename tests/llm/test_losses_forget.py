"""Every forget loss on a small model that knows facts: a few steps lower what is to be forgotten, not the rest."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from gunlearn.llm import CausalLM, PartCollator
from gunlearn.losses import (
    DPO,
    IHL,
    KTO,
    NLL,
    NPO,
    RMU,
    UNDIAL,
    WGA,
    CrossEntropyUnlearning,
    JSDToRefusal,
    Loss,
    MaskedVocabulary,
    Objective,
    SatImp,
    SimNPO,
)
from tests.llm import facts

FORGOTTEN = facts.rows(facts.FORGET, (0,))
VALUES = tuple(sorted({facts.VOCABULARY[row["value"]] for row in FORGOTTEN}))


def alternatives() -> list[dict]:
    """The same questions with other answers."""
    other = {kind: values[1:] + values[:1] for kind, values in facts.VALUES.items()}
    return [
        facts.row(person, kind, 0, other[kind][facts.VALUES[kind].index(facts.value_of(person, kind))])
        for person in facts.FORGET
        for kind in facts.VALUES
    ]


def after(objective: Objective, steps: int = 12) -> tuple[float, float]:
    """Probability of the forgotten and of the retained values after a few steps."""
    full, collate, draw = facts.full(), PartCollator(), random.Random(0)
    model = copy.deepcopy(full)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    retained = facts.rows(facts.RETAIN)
    for _ in range(steps):
        rows = {"forget": FORGOTTEN, "alternative": alternatives(), "retain": draw.sample(retained, 16)}
        current, reference = {}, {}
        for part in objective.parts:
            task, batch = CausalLM(objective.fields(part)), collate(rows[part])
            current[part] = task.decode(model, None, batch)
            if part in objective.reference_parts:
                with torch.no_grad():
                    reference[part] = task.decode(full, None, batch)
        objective(current, reference).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return facts.value_prob(model, FORGOTTEN), facts.value_prob(model, retained)


LOSSES = [
    SimNPO(),
    DPO(scale=2),
    KTO(),
    WGA(),
    SatImp(),
    UNDIAL(),
    CrossEntropyUnlearning(),
    IHL(),
    RMU(coefficient=20.0),
    JSDToRefusal(),
    JSDToRefusal((facts.VOCABULARY["<unk>"],), on="forget"),
    MaskedVocabulary(VALUES),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_few_steps_forget(loss: Loss) -> None:
    forgotten, retained = after(loss + 0.5 * NLL(on="retain"))
    assert forgotten < 0.25
    assert retained > forgotten + 0.3


@pytest.mark.parametrize("loss", [SimNPO(), KTO(), WGA(), CrossEntropyUnlearning(), IHL()], ids=repr)
def test_control_the_sign_flipped_forgets_nothing(loss: Loss) -> None:
    assert after(-1.0 * loss + 0.5 * NLL(on="retain"), steps=6)[0] > 0.8


def test_controls_nothing_to_do_and_other_words() -> None:
    assert after(0.0 * NPO() + 0.5 * NLL(on="retain"))[0] > 0.8
    # Words ruled out that nobody is to forget.
    other = facts.VOCABULARY["<unk>"]
    assert after(MaskedVocabulary((other,)) + 0.5 * NLL(on="retain"), steps=6)[0] > 0.8
