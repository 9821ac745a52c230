"""The held-out loss along a path is that of validation nodes of the classes that stay, on the graph that is left."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

import gunlearn as gu
from experiments.mode_connectivity.held_out import held_out_losses
from gunlearn.nn import backbone
from gunlearn.seed import isolated_rng


def test_a_class_that_goes_does_not_count() -> None:
    data, task = gu.node_split(gu.load("digits"), seed=0), gu.NodeClassification()
    request = gu.ForgetNodes((data.train_mask & (data.y == 3)).nonzero().view(-1))
    partition = request.resolve(data)
    with isolated_rng(0):
        ends = [backbone("gcn", data.num_features, 8, 10) for _ in range(2)]
    dial = gu.connect(*ends, data, partition, task, points=3).dial
    found = held_out_losses(dial, SimpleNamespace(partition=partition, task=task), [0.0, 0.5, 1.0])
    left = partition.retain_data
    with torch.no_grad():
        for value, model in ((found[0], ends[0].eval()), (found[2], ends[1].eval())):
            logits = model(left.x, left.edge_index)
            stays, whole = left.val_mask & (left.y != 3), left.val_mask
            assert value == pytest.approx(float(cross_entropy(logits[stays], left.y[stays])), rel=1e-5)
            control = float(cross_entropy(logits[whole], left.y[whole]))  # the class that went counted too
            assert abs(control - value) > 1e-4 * value
    assert found[1] not in (found[0], found[2])
