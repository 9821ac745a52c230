"""Trainings whose positives are no messages, as `RandomLinkSplit(disjoint_train_ratio=...)` sets them up."""

import warnings

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN
from torch_geometric.transforms import RandomLinkSplit
from torch_geometric.utils import to_undirected

import gunlearn as gu
from gunlearn.errors import InvalidInputError, InvalidRequestError

RING = to_undirected(torch.stack([torch.arange(20), (torch.arange(20) + 1) % 20]))


def split(disjoint: float) -> Data:
    torch.manual_seed(0)
    data = Data(x=torch.randn(20, 3), edge_index=RING)
    how = RandomLinkSplit(0.0, 0.1, is_undirected=True, disjoint_train_ratio=disjoint)
    return how(data)[0]


def unlearned(data: Data, edges: torch.Tensor) -> gu.Result:
    return gu.unlearn(GCN(3, 4, 2), data, gu.ForgetEdges(edges), "finetune", "link_prediction", epochs=1)


def test_positives_apart_from_the_graph_are_refused() -> None:
    data = split(0.3)
    with pytest.raises(InvalidInputError, match=r"positive pairs of 'edge_label_index' among.*got 5 of 5 outside"):
        unlearned(data, data.edge_index[:, :1])
    with pytest.raises(InvalidRequestError, match="'edge_label_index' alone holds"):
        gu.ForgetEdges(data.edge_label_index[:, :1]).resolve(data)


def test_positives_that_are_messages_go_with_them() -> None:
    """Control: the same split without supervision edges of their own."""
    data = split(0.0)
    left = unlearned(data, data.edge_label_index[:, :1]).data
    assert left.edge_index.size(1) == data.edge_index.size(1) - 2
    assert left.edge_label_index.size(1) == data.edge_label_index.size(1) - 1


def test_without_the_list_the_graph_alone_is_meant() -> None:
    data = split(0.3)
    del data.edge_label_index, data.edge_label
    assert unlearned(data, data.edge_index[:, :1]).data.edge_index.size(1) == data.edge_index.size(1) - 2


@pytest.mark.parametrize("apart", [False, True])
def test_given_negatives_are_said_not_to_be_used(apart: bool) -> None:
    data = Data(x=torch.randn(20, 3), edge_index=RING)
    settings = {"is_undirected": True, "split_labels": apart}
    given = RandomLinkSplit(0.0, 0.1, **settings)(data)[0]
    number = given.neg_edge_label_index.size(1) if apart else int((given.edge_label == 0).sum())
    with pytest.warns(UserWarning, match=rf"the {number} given negatives.*add_negative_train_samples=False"):
        unlearned(given, given.edge_index[:, :1])
    advised = RandomLinkSplit(0.0, 0.1, add_negative_train_samples=False, **settings)(data)[0]
    with warnings.catch_warnings():  # control: what the warning says
        warnings.filterwarnings("error", message=".*given negatives")
        unlearned(advised, advised.edge_index[:, :1])
