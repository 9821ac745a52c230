"""Other people's code as an independent oracle, where it computes the same thing."""

import copy

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, softplus
from torch.utils.data import DataLoader, TensorDataset
from torch_geometric.nn import SGConv

import gunlearn as gu
from gunlearn.requests.training_graph import distinct_pairs
from gunlearn.tasks.graph.node_classification import training_nodes
from tests.attribution.second_order import graph, net

NUM_NODES = 20


def make(seed=0):
    return net("gcn", seed=seed).eval()


# dattri #######################################################################


def dattri_scores(data, models, rates, train, test, loss, normalized=False):
    """dattri's TracIn of `train` on `test`: sum over checkpoints of rate times dot product `[num_train, num_test]`."""
    reason = "needs dattri, an independent implementation of TracIn (in the extra 'test')"
    task = pytest.importorskip("dattri.task", reason=reason)
    tracin = pytest.importorskip("dattri.algorithm.tracin", reason=reason)

    own = copy.deepcopy(models[0])  # it loads every checkpoint into this one

    def one(params, item):
        return loss(functional_call(own, params, (data.x, data.edge_index)), *item)

    attributor = tracin.TracInAttributor(
        task=task.AttributionTask(loss_func=one, model=own, checkpoints=[m.state_dict() for m in models]),
        weight_list=torch.tensor(rates),
        normalized_grad=normalized,
    )
    attributor.projector_kwargs = None  # no random projection
    loaders = (DataLoader(TensorDataset(*items), batch_size=64) for items in (train, test))
    return attributor.attribute(*loaders).double()


def of_nodes(outputs, index, label):
    return cross_entropy(outputs.index_select(0, index.view(1)), label.view(1))


def of_pairs(outputs, pair, label):
    return softplus(-(2 * label - 1) * outputs.index_select(0, pair).prod(dim=0).sum())


def test_tracin_of_nodes_equals_dattri():
    data, models, rates = graph(NUM_NODES), [make(0), make(1)], [0.3, 0.7]
    train = training_nodes(data)
    held_out = gu.NodeClassification().validation_items(data)
    found = dattri_scores(
        data, models, rates, (train.index, train.label), (held_out.index, held_out.label), of_nodes
    ).mean(dim=1)
    scores = gu.influence(
        models[-1], data, "node_classification", of="nodes", estimator="tracin", target="loss", items=train.index,
        checkpoints=models, lr=rates,
    )  # fmt: skip
    torch.testing.assert_close(scores, found / train.num_items, rtol=1e-4, atol=1e-8)  # dattri adds up in float32
    assert not torch.allclose(scores.flip(0), found / train.num_items, rtol=0.1)  # control: other nodes' scores


def test_cosine_of_nodes_equals_dattri():
    data, model = graph(NUM_NODES), make()
    train, node = training_nodes(data), data.val_mask.nonzero()[0]
    found = dattri_scores(data, [model], [1.0], (train.index, train.label), (node, data.y[node]), of_nodes, True)[:, 0]
    scores = gu.influence(
        model, data, "node_classification", of="nodes", estimator="gradient_similarity", items=train.index,
        target=lambda out: cross_entropy(out[node], data.y[node]),
    )  # fmt: skip
    torch.testing.assert_close(scores, found, rtol=1e-4, atol=1e-6)


def test_tracin_of_edges_equals_dattri():
    data, model = graph(NUM_NODES), make()
    edges, ones = distinct_pairs(data), torch.ones
    held_out = torch.cat([data.val_pos_edge_index, data.val_neg_edge_index], dim=1).t()
    label = torch.cat([ones(data.val_pos_edge_index.size(1)), torch.zeros(data.val_neg_edge_index.size(1))])
    train = (edges.t(), ones(edges.size(1)))
    found = dattri_scores(data, [model], [1.0], train, (held_out, label), of_pairs).mean(dim=1)
    scores = gu.influence(model, data, estimator="tracin", target="loss", items=edges)
    torch.testing.assert_close(scores, found / (2 * edges.size(1)), rtol=1e-4, atol=1e-8)


# PyG's total_influence ########################################################


def summed_changes(model, data, node, hops):
    """Sum of |change of an output of `node`| per unit of a feature set to zero, over the features at each distance."""
    entries = torch.cartesian_prod(torch.arange(NUM_NODES), torch.arange(5)).t()
    found = torch.zeros(NUM_NODES)
    for k in range(3):
        change = gu.influence(
            model, data, of="features", items=entries, estimator="brute", target=lambda out, k=k: out[node, k]
        )
        found.index_add_(0, entries[0], (change / data.x[entries[0], entries[1]]).abs())
    distance = torch.full((NUM_NODES,), -1)
    distance[node], frontier = 0, torch.tensor([node])
    for hop in range(1, hops + 1):
        reached = data.edge_index[1, torch.isin(data.edge_index[0], frontier)].unique()
        frontier = reached[distance[reached] < 0]
        distance[frontier] = hop
    return torch.stack([found[distance == hop].sum() for hop in range(hops + 1)])


@pytest.mark.parametrize("linear", [True, False])
def test_removing_features_of_a_linear_model_sums_to_total_influence(linear):
    influence = pytest.importorskip("torch_geometric.utils.influence", reason="needs PyG 2.7 or newer")
    data, hops = graph(NUM_NODES), 3  # one more than the layers, so that PyG's subgraph has the whole degrees
    data.x = data.x.float()  # the only type that it takes
    torch.manual_seed(0)
    model = SGConv(5, 3, K=2) if linear else make().float()
    torch.manual_seed(1)
    per_node, _ = influence.total_influence(model, data, hops, num_samples=2, normalize=False, average=False)
    torch.manual_seed(1)
    nodes = torch.randperm(NUM_NODES)[:2].tolist()  # those that it drew
    changes = torch.stack([summed_changes(model, data, node, hops) for node in nodes])
    # Of a linear model, a feature's removal changes outputs by its value times the Jacobian, whatever its size.
    assert torch.allclose(changes, per_node, rtol=1e-3, atol=1e-5) == linear
    assert (changes[:, 3] == 0).all()
    assert (changes[:, 1] > 0).any()
