"""Targets: how far outputs move, and the change of a number of them."""

import math

import pytest
import torch

import gunlearn as gu
from gunlearn.attribution import Embeddings, ItemLoss, Probabilities
from gunlearn.attribution.targets import Distance, Value, as_target
from gunlearn.errors import GunlearnError, InvalidInputError, InvalidTypeError
from gunlearn.tasks import as_task
from tests.attribution.removal import NODES, OUT, both, built, directed, held_out, tangled

pytestmark = pytest.mark.filterwarnings("ignore:.*are both in:UserWarning")

TASKS = ("link_prediction", "node_classification")


def bound(task: str) -> ItemLoss:
    data = held_out(tangled())
    return as_target("loss", built("gcn"), data, as_task(task))


def changes(num_items: int = 6, seed: int = 0):
    """Outputs, and the rows of some items, in no order: none of item 2, all of item 3, hub and its pairs of others."""
    g = torch.Generator().manual_seed(seed)
    before = torch.randn(NODES, OUT, generator=g, dtype=torch.float64)
    held = [torch.tensor([0, 3, 5]), torch.tensor([0]), torch.tensor([]).long(), torch.arange(NODES), torch.tensor([4])]
    held.append(torch.randperm(NODES, generator=g)[:7])
    row, item = torch.cat(held), torch.repeat_interleave(torch.arange(num_items), torch.tensor([len(h) for h in held]))
    order = torch.randperm(row.numel(), generator=g)
    after = torch.randn(row.numel(), OUT, generator=g, dtype=torch.float64)
    return before, row[order], after, item[order]


def by_definition(target: Value, before, row, after, item, num_items=6):
    out = []
    for i in range(num_items):
        outputs = before.clone()
        outputs[row[item == i]] = after[item == i]
        out.append(target.value(outputs) - target.value(before))
    return torch.stack(out)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(3))
def test_change_of_the_loss_is_the_loss_after_less_before(task, seed):
    target, given = bound(task), changes(seed=seed)
    found = target.change(*given, 6)
    wanted = by_definition(target, *given)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert found[2] == 0


def test_one_end_alone_is_not_enough():
    """The control of the test above: with the other end of each pair as before, pairs that change twice are wrong."""
    target, (before, row, after, item) = bound("link_prediction"), changes()
    z = before.clone()
    z[row[item == 0]] = after[item == 0]
    (u, v), sign = target.items.edge_label_index, 2 * target.items.label.to(before) - 1

    def loss(one, other):
        return -torch.nn.functional.logsigmoid(sign * (one[u] * other[v]).sum(dim=1)).mean()

    wanted = float(target.change(before, row, after, item, 6)[0])
    assert float(loss(z, z) - loss(before, before)) == pytest.approx(wanted, rel=1e-9)
    assert float(loss(z, before) - loss(before, before)) != pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("task", TASKS)
def test_value_of_the_loss_by_hand(task):
    target, z = bound(task), changes()[0]
    data = held_out(tangled())
    if task == "node_classification":
        log_prob = z.log_softmax(dim=1)[torch.arange(NODES), data.y][data.val_mask]
        wanted = -log_prob.mean()
    else:
        score = torch.cat([(z[a] * z[b]).sum(1) for a, b in (data.val_pos_edge_index, data.val_neg_edge_index)])
        label = torch.cat([torch.ones(11), torch.zeros(9)]).double()
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(score, label)
    torch.testing.assert_close(target.value(z), wanted)


def test_distances_by_hand():
    before, row, after, item = changes()

    def taxi(a, b):
        return sum(abs(p - q) for p, q in zip(a, b, strict=True))

    for target, f in ((Probabilities(), taxi), (Embeddings(), math.dist)):
        old, new = ((z.softmax(dim=1) if f is taxi else z).tolist() for z in (before, after))
        wanted = [0.0] * 6
        for k, (r, i) in enumerate(zip(row.tolist(), item.tolist(), strict=True)):
            wanted[i] += f(old[r], new[k])
        assert target.change(before, row, after, item, 6).tolist() == pytest.approx(wanted, rel=1e-12)


class Flips(Distance):
    """How many nodes' largest output is another one, plus a thousandth of the largest single move."""

    name = "flips"

    def distance(self, before, after):
        return (before.argmax(dim=1) != after.argmax(dim=1)).double() + (before - after).abs().amax(dim=1) / 1000


class Soft(Value):
    """A value of one's own, that is not linear in anything."""

    name = "soft"

    def value(self, outputs):
        return outputs.exp().sum().log()


@pytest.mark.parametrize("target", [Flips(), Soft()])
@pytest.mark.parametrize("of", ["edges", "nodes", "features"])
def test_a_target_of_ones_own(target, of):
    for graph in (tangled(), directed()):
        error, path = both(built("gcn"), graph, of=of, target=target)
        assert path == "changed rows"
        assert error < 1e-9


def test_loss_of_given_items_is_not_that_of_the_validation_items():
    data = held_out(tangled())
    items = as_task("node_classification").validation_items(data)
    every = gu.influence(built("gcn"), data, "node_classification", target="loss")
    same = gu.influence(built("gcn"), data, "node_classification", target=ItemLoss(items))
    assert every.equal(same)
    data.val_mask = ~data.val_mask
    other = as_task("node_classification").validation_items(data)
    assert not every.allclose(gu.influence(built("gcn"), data, "node_classification", target=ItemLoss(other)))


def test_a_tensor_of_one_element_is_a_number():
    one = gu.influence(built("gcn"), tangled(), target=lambda z: z.sum().view(1, 1))
    assert one.equal(gu.influence(built("gcn"), tangled(), target=lambda z: z.sum()))


def test_unknown_targets_and_missing_items():
    data = tangled()
    with pytest.raises(InvalidInputError, match="embeddings"):
        gu.influence(built("gcn"), data, target="embedding")
    with pytest.raises(InvalidTypeError, match="int"):
        gu.influence(built("gcn"), data, target=3)
    for task in TASKS:
        with pytest.raises(GunlearnError, match="validation"):
            gu.influence(built("gcn"), data, task, target="loss")


def test_outputs_that_are_not_finite():
    data = tangled()
    data.x[0, 0] = float("nan")
    with pytest.raises(InvalidInputError, match="finite"):
        gu.influence(built("gcn"), data)
