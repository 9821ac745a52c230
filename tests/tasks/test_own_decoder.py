"""Link prediction by a model that scores pairs itself without a `decode`: no inner product replaces its scores."""

import warnings

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

import gunlearn as gu
from gunlearn.errors import UnsupportedModelError
from gunlearn.seed import isolated_rng
from tests.model_kinds import links


class Encoder(nn.Module):
    """Embeds nodes; its head scores pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = pyg.SAGEConv(8, 4), nn.Linear(4, 1)

    def encode(self, x, edge_index):
        return self.conv(x, edge_index)

    def score(self, z, pairs):
        return self.head(z[pairs[0]] * z[pairs[1]]).view(-1)


class Needs(Encoder):
    def forward(self, x, edge_index, edge_label_index):
        return self.score(self.encode(x, edge_index), edge_label_index)


class NeedsEnds(Encoder):
    def forward(self, x, edge_index, source, target):
        return self.score(self.encode(x, edge_index), torch.stack([source, target]))


class OfRows(Encoder):
    def forward(self, z, pairs):
        return self.score(z, pairs)


class May(nn.Module):
    """Returns embeddings, or scores where it is given pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = pyg.SAGEConv(8, 4), nn.Linear(4, 1)

    def forward(self, x, edge_index, pairs=None):
        z = self.conv(x, edge_index)
        return z if pairs is None else self.head(z[pairs[0]] * z[pairs[1]]).view(-1)


class Plain(Encoder):
    """An inner product is its score: it has no head."""

    def __init__(self) -> None:
        super().__init__()
        del self.head

    def forward(self, x, edge_index, edge_weight=None, batch=None):
        return self.encode(x, edge_index)


class Decodes(Needs):
    def decode(self, z, pairs):
        return self.score(z, pairs)


def new(make):
    with isolated_rng(0):
        return make()


def unlearn(model, **options):
    return gu.unlearn(model, links(), gu.ForgetEdges(count=2), "utu", **options)


@pytest.mark.parametrize("make", [Needs, NeedsEnds, OfRows, May])
@pytest.mark.parametrize("entry", ["train", "unlearn", "influence"])
def test_a_model_that_scores_pairs_in_forward_is_refused(entry, make) -> None:
    doors = {
        "train": lambda model: gu.train(model, links(), epochs=1),
        "unlearn": unlearn,
        "influence": lambda model: gu.influence(model, links(), of="nodes", items=[0]),
    }
    with pytest.raises(UnsupportedModelError, match=r"'decode' for a model that scores pairs itself.*call="):
        doors[entry](new(make))


def test_a_head_beside_the_embeddings_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"inner products.*'head\.weight', 'head\.bias'"):
        unlearn(new(Encoder))
    with pytest.warns(UserWarning, match=r"'head\.weight'"):
        unlearn(new(Needs), call=lambda model, data: model.encode(data.x, data.edge_index))


@pytest.mark.parametrize("make", [Needs, NeedsEnds, OfRows, May, Encoder])
@pytest.mark.parametrize("inner", [False, True], ids=["own", "inner product"])
def test_what_the_message_names_is_taken(make, inner) -> None:
    """The control: the same models with a `decode`, their own or an inner product, run and say nothing."""
    embed = (lambda model, data: model(data.x, data.edge_index)) if make is May else None
    own = (lambda model, z, pairs: model.head(z[pairs[0]] * z[pairs[1]]).view(-1)) if not inner else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearn(new(make), call=embed, decode=own or (lambda model, z, pairs: (z[pairs[0]] * z[pairs[1]]).sum(-1)))


@pytest.mark.parametrize("make", [Plain, Decodes, lambda: pyg.GraphSAGE(8, 8, 2, 4), lambda: pyg.GAE(Plain())])
def test_other_models_are_taken_as_before(make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearn(new(make))


class Counts(Plain):
    """Notes how many edges it was called on, outside the kernels that read them without a copy."""

    def forward(self, x, edge_index, batch=None, batch_size=None, edge_weight=None):
        self.weighted.append(edge_weight is not None)
        if batch is not None or batch_size is not None:
            self.edges.append(edge_index.size(1))
        return self.encode(x, edge_index)


def test_a_search_for_a_pairs_argument_reads_a_few_edges() -> None:
    """All edges in each call would gather `[num_edges, num_features]` as often as the model has such arguments.

    Those of graphs are not tried with pairs.
    """
    model, Counts.edges, Counts.weighted = new(Counts), [], []
    unlearn(model)
    assert not any(Counts.weighted)
    assert len(Counts.edges) == 2
    assert max(Counts.edges) <= 11 < links().edge_index.size(1)
