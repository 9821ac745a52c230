"""Task-vector subtraction against its formula."""

import pytest
import torch

import gunlearn as gu
from gunlearn.losses import NLL
from gunlearn.methods import OwnObjective
from tests.methods.cases import make_data, trained_model


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_change_of_fine_tuning_is_taken_away(scale):
    model, data, request = trained_model(), make_data(), gu.ForgetEdges(count=12, seed=3)
    how = {"epochs": 3, "lr": 1e-3}
    tuned = gu.unlearn(model, data, request, OwnObjective(given=NLL(on="forget"), **how)).model
    found = gu.unlearn(model, data, request, "task_vector", scale=scale, **how).model
    moved = 0.0
    for (name, before), after, own in zip(
        model.named_parameters(), tuned.parameters(), found.parameters(), strict=True
    ):
        torch.testing.assert_close(own, before - scale * (after - before), msg=name)
        moved += float((after - before).norm())
    assert moved > 1e-3  # control: fine-tuning does something
