"""Things that are named twice or were deleted before: refused by default, skipped and told on request."""

import pytest
import torch
from torch_geometric.data import Batch, Data

import gunlearn as gu
from gunlearn.errors import EmptyForgetSetError, GunlearnError, InvalidInputError, InvalidRequestError

KARATE = gu.load("karate")
EDGES = KARATE.edge_index[:, KARATE.edge_index[0] < KARATE.edge_index[1]]
HERE, THERE = EDGES[:, :4].t().tolist(), EDGES[:, 4:6].t().tolist()
AFTER = gu.ForgetEdges(HERE[:2]).resolve(KARATE).retain_data
NODES = gu.ForgetNodes([3, 4]).resolve(KARATE).retain_data


@pytest.mark.parametrize(
    ("request_of", "data", "left", "counts"),
    [
        (lambda **how: gu.ForgetEdges([*HERE, HERE[3]], **how), AFTER, 2, ("2 no longer there", "1 named twice", "5")),
        (lambda **how: gu.ForgetEdges([*THERE, THERE[0]], **how), KARATE, 2, ("1 named twice", "of 3")),
        (lambda **how: gu.ForgetEdges(edge_ids=[0, 2, 2, 2], **how), KARATE, 2, ("2 named twice", "of 4")),
        (lambda **how: gu.ForgetNodes([3, 5, 5, 6], **how), NODES, 2, ("1 no longer there", "1 named twice", "of 4")),
        (lambda **how: gu.ForgetFeatures([4, 7], **how), NODES, 1, ("1 no longer there", "of 2")),
        (
            lambda **how: gu.ForgetNodes(mask=torch.arange(34) < 5, **how),
            NODES,
            3,
            ("2 no longer there", "of 5"),
        ),
    ],
)
def test_refused_by_default_and_skipped_on_request(request_of, data, left, counts):
    with pytest.raises(InvalidRequestError, match="missing='ignore' skips them"):
        request_of().resolve(data)
    found = request_of(missing="ignore").resolve(data)
    assert found.num_forget == left
    assert all(count in found.skipped for count in counts), found.skipped


def test_the_default_names_how_many():
    for request, data, words in (
        (gu.ForgetEdges(HERE), AFTER, "2 that it does not have"),
        (gu.ForgetNodes([5, 5, 5, 6]), KARATE, "2 repeated: number 2, 3 of the request"),
        (gu.ForgetNodes([6, 3, 4]), NODES, "2 of 3 that were deleted before: number 2, 3 of the request"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            request.resolve(data)


def test_both_directions_of_an_edge_are_one_edge_and_no_repetition():
    both = [HERE[0], HERE[0][::-1]]
    found = gu.ForgetEdges(both, missing="ignore").resolve(KARATE)
    assert (found.num_forget, found.skipped) == (1, "")
    assert gu.ForgetEdges(both).resolve(KARATE).request_hash == found.request_hash


@pytest.mark.parametrize(
    ("request_", "data", "words"),
    [
        (gu.ForgetEdges(HERE[:2], missing="ignore"), AFTER, "none of 2 named"),
        (gu.ForgetNodes([3, 4], missing="ignore"), NODES, "none of 2 named"),
    ],
)
def test_nothing_left_to_forget_is_no_success(request_, data, words):
    with pytest.raises(EmptyForgetSetError, match=words):
        request_.resolve(data)


def test_wrong_names_are_refused_in_any_case():
    held = gu.link_split(KARATE, 0.2, 0.2)
    for request, data, words in (
        (gu.ForgetEdges(held.test_pos_edge_index[:, :2], missing="ignore"), held, "held-out"),
        (gu.ForgetEdges([*HERE, [0, 99]], missing="ignore"), KARATE, "nodes of edges in"),
        (gu.ForgetNodes([0, 99], missing="ignore"), KARATE, "nodes in"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            request.resolve(data)
    for wrong in ({"count": 2, "missing": "ignore"}, {"index": [1], "missing": "skip"}):
        with pytest.raises(GunlearnError, match=r"'missing'|missing='ignore'"):
            gu.ForgetNodes(**wrong)


def test_the_result_tells_and_forgets_the_rest_as_a_plain_request_does():
    data = gu.link_split(KARATE, 0.1, 0.1)
    model = gu.train(gu.GCN(data.num_features), data, epochs=5).model
    named = data.edge_index[:, :3]
    gone = gu.ForgetEdges(named[:, :1]).resolve(data).retain_data
    result = gu.unlearn(model, gone, gu.ForgetEdges(named, missing="ignore"), "utu")
    plain = gu.unlearn(model, gone, gu.ForgetEdges(named[:, 1:]), "utu")
    assert "1 no longer there" in result.notes["skipped"]
    assert "skipped" not in plain.notes
    assert result.num_forget == plain.num_forget
    assert result.request_hash == plain.request_hash
    both = gu.ForgetEdges(named, missing="ignore") + gu.ForgetNodes([7, 7], missing="ignore")
    assert both.resolve(gone).skipped.count("named") == 3


def test_items_and_graphs():
    items = Data(x=torch.rand(6, 2), y=torch.arange(6) % 2)
    found = gu.ForgetItems([1, 1, 3], missing="ignore").resolve(items)
    assert (found.num_forget, found.skipped) == (2, "skipped of 3 named items: 1 named twice")
    ring = torch.tensor([[0, 1, 2], [1, 2, 0]])
    batch = Batch.from_data_list([Data(x=torch.rand(3, 2), edge_index=ring, y=torch.tensor([k % 2])) for k in range(4)])
    left = gu.ForgetGraphs([1]).resolve(batch).retain_data
    with pytest.raises(InvalidInputError, match="1 of 2 that were deleted before: number 1 of"):
        gu.ForgetGraphs([1, 2]).resolve(left)
    assert gu.ForgetGraphs([1, 2], missing="ignore").resolve(left).forget_graphs.tolist() == [2]


TOLD = gu.load("karate")
TOLD.node_id = [f"person{row}" for row in range(34)]
FILES = Data(x=torch.rand(2, 2), y=torch.arange(2), item_id=["a22", "b31"])


@pytest.mark.parametrize(
    ("request_", "data", "words"),
    [
        (gu.ForgetNodes([31, 22, 31]), KARATE, "number 3"),
        (gu.ForgetNodes(["person31", "person22", "person31"]), TOLD, "number 3"),
        (gu.ForgetFeatures([31, 31, 22]), KARATE, "number 2"),
        (gu.ForgetEdges([[32, 33], [31, 33], [32, 33], [31, 33]]), KARATE, "number 3, 4"),
        (gu.ForgetEdges([[32, 33], [31, 0], [31, 30], [32, 33]]), KARATE, "number 3"),
        (
            gu.ForgetItems(["b31", "a22", "b31"]),
            Data(x=torch.rand(2, 2), y=torch.arange(2), item_id=["a22", "b31"]),
            "number 3",
        ),
    ],
)
def test_errors_tell_places_and_not_who_is_forgotten(request_, data, words):
    with pytest.raises(InvalidRequestError, match=rf"{words} of the request") as caught:
        request_.resolve(data)
    assert not any(name in str(caught.value) for name in ("31", "22", "32", "33"))
