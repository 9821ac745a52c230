"""Which classes of nodes go as a whole."""

import pytest
import torch
from torch_geometric.data import Data

import gunlearn as gu
from gunlearn.methods.any_task.whole_classes import node_classes_that_go


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("floating", [False, True])
def test_a_class_goes_with_its_last_training_node(trained: bool, floating: bool) -> None:
    """Node 4 is of the class too, but only the control trains on it; values of a regression are no classes."""
    mask = torch.tensor([True, True, True, True, trained, False])
    y = torch.tensor([0, 0, 1, 1, 0, 1])
    data = Data(x=torch.eye(6), edge_index=torch.tensor([[2, 3], [3, 2]]), y=y.float() if floating else y)
    data.train_mask, data.test_mask = mask, ~mask
    partition = gu.ForgetNodes([0, 1, 5]).resolve(data)
    assert node_classes_that_go(gu.NodeClassification(), partition) == ([] if trained or floating else [0])
