"""`experiments/speed`: the plain baseline does the same maths as the package, and the study runs."""

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import gunlearn as gu
from experiments.speed import scalegun
from experiments.speed.__main__ import Args, main
from experiments.speed.bound import Sizes, passes, step_bytes
from experiments.speed.measures import SIDES
from experiments.speed.parts import KINDS, mebibytes
from experiments.speed.plain import PlainGCN, PlainGraph, PlainINPO, decode, plain_nora
from experiments.speed.plain_csr import CsrINPO
from experiments.speed.plain_training import PlainTraining, plain_evaluate
from experiments.speed.report import csr_over_products, fill
from experiments.speed.requests import Highest, asked, by_mask, graph_of
from experiments.speed.synthetic import power_law_graph
from gunlearn.attribution import min_max, nora
from gunlearn.errors import InvalidInputError
from gunlearn.losses import NLL
from gunlearn.methods import INPO, run_method
from gunlearn.metrics import LinkEvaluator
from gunlearn.seed import isolated_rng
from gunlearn.tasks import LinkPrediction
from gunlearn.tasks.graph.negatives import NegativeSampler
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def problem():
    """A trained model and a partition in float64, with features sparse enough for the sparse path."""
    graph = power_law_graph(1500, num_features=100, seed=1)
    keep = torch.rand(graph.x.shape, generator=torch.Generator().manual_seed(0)) < 0.04
    graph.x = torch.where(keep, graph.x, 0).double()
    data = gu.link_split(graph, seed=0)
    with isolated_rng(0):  # drawn weights decide which edges are let go from the start
        fresh = gu.GCN(100, 16, 8).double()
    model = gu.train(fresh, data, epochs=30, eval_every=30).model
    return model, gu.ForgetEdges(ratio=0.1, seed=0).resolve(data)


def plain_copy(model: torch.nn.Module) -> PlainGCN:
    plain = PlainGCN(100, 16, 8).double()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.fixture
def fixed_negatives(problem, monkeypatch) -> torch.Tensor:
    """The package draws these pairs, in every step."""
    _, partition = problem
    sampler = NegativeSampler(partition.data.edge_index, partition.data.num_nodes)
    pairs = sampler.sample(partition.num_retain, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(NegativeSampler, "sample", lambda self, size, generator=None, like=None: pairs[:, :size])
    return pairs


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("mode", ["paper", "default"])
def test_plain_steps_give_our_losses_and_weights(problem, fixed_negatives, mode: str, side: str) -> None:
    model, partition = problem
    cls, both = SIDES[side]
    method = INPO(mode=mode, epochs=3)
    ours = run_method(method, model, partition, LinkPrediction())
    pairs = torch.cat([fixed_negatives, fixed_negatives.flip(0)], dim=1) if both else fixed_negatives
    plain = cls(plain_copy(model), PlainGraph.of(partition, both), method, negatives=lambda n: pairs[:, :n])
    if cls is CsrINPO:  # it runs on CSR, features too
        assert {plain.x.layout, plain.adjacency[True].layout} == {torch.sparse_csr}
    if mode == "default":  # some edges are let go from the start, so that their weight 0 is compared as well
        assert 0 < int((plain.above() > 0).sum()) < plain.graph.forget.size(1)
    losses = [plain.step() for _ in range(3)]
    assert losses == pytest.approx([record["loss"] for record in ours.history], abs=1e-8)
    before, after = dict(model.state_dict()), dict(ours.model.state_dict())
    torch.testing.assert_close(dict(plain.model.state_dict()), after, rtol=0, atol=1e-7)
    # Three steps that change nothing would agree as well.
    assert max(float((after[name] - before[name]).abs().max()) for name in after) > 1e-4


@pytest.mark.parametrize("cls", [PlainINPO, CsrINPO])
@pytest.mark.parametrize("change", ["scale", "first_gradient"])
def test_the_comparison_sees_what_is_left_out(problem, change: str, cls: type[PlainINPO]) -> None:
    model, partition = problem
    method = INPO(mode="paper", epochs=2)
    ours = run_method(method, model, partition, LinkPrediction())
    plain = cls(plain_copy(model), PlainGraph.of(partition), method)
    if change == "scale" and cls is CsrINPO:
        plain.adjacency[True] = plain.adjacency[False]
    elif change == "scale":
        plain.scale = torch.ones_like(plain.scale)
    else:
        plain.optimizer.zero_grad()
    for _ in range(2):
        plain.step()
    name = "convs.0.lin.weight"
    assert (plain.model.state_dict()[name] - ours.model.state_dict()[name]).abs().max() > 1e-5


def test_plain_influence_is_ours(problem) -> None:
    model, partition = problem
    plain = plain_nora(plain_copy(model), partition.data.x, partition.data.edge_index)
    torch.testing.assert_close(plain, min_max(nora(model, partition.data)).double(), rtol=1e-4, atol=1e-5)


def test_plain_evaluation_is_ours(problem) -> None:
    model, partition = problem
    plain = plain_evaluate(plain_copy(model), PlainGraph.of(partition), seed=3)
    ours = LinkEvaluator(LinkPrediction(), partition, seed=3).row(model)
    assert plain == pytest.approx({name: ours[name] for name in plain})


def test_plain_training_step_has_our_loss(problem, fixed_negatives) -> None:
    model, partition = problem
    graph, task = PlainGraph.of(partition), LinkPrediction()
    pairs = torch.cat([fixed_negatives, fixed_negatives.flip(0)], dim=1)
    plain = PlainTraining(plain_copy(model), graph, negatives=lambda n: pairs[:, :n])
    items = task.training_parts(partition.retain_data).sample(["retain"])["retain"]
    with torch.no_grad():
        current = task.decode(model, task.encode(model, partition.retain_data), items)
    assert plain.step() == pytest.approx(float(NLL()(current)))
    before = plain.validate()
    held_out = task.validation_items(partition.retain_data)
    plain.model.load_state_dict(model.state_dict())
    with torch.no_grad():
        loss = float(-task.predict(model, partition.retain_data, held_out).log_prob.mean())
    assert plain.validate() == pytest.approx(loss)
    assert plain.validate() != before


def test_plain_negatives_are_no_edges(problem) -> None:
    model, partition = problem
    graph = PlainGraph.of(partition)
    drawn = PlainINPO(plain_copy(model), graph, INPO()).negatives(200)
    assert drawn.size(1) == 200
    num_nodes = partition.data.num_nodes
    edges = set((graph.full[0] * num_nodes + graph.full[1]).tolist())
    assert not edges & set((drawn[0] * num_nodes + drawn[1]).tolist())
    assert decode(torch.eye(3), torch.tensor([[0, 1], [0, 2]])).tolist() == [1.0, 0.0]


def test_power_law_graph() -> None:
    data = power_law_graph(20000, num_features=5)
    num_nodes, (row, col) = data.num_nodes, data.edge_index
    assert data.edge_index.shape == (2, 40000)
    assert num_nodes == 2000
    assert (row != col).all()
    key = row * num_nodes + col
    assert (key[1:] > key[:-1]).all()
    assert torch.equal((col * num_nodes + row).sort()[0], key)
    degree = torch.bincount(row, minlength=num_nodes).double()
    assert degree.max() > 5 * degree.mean()  # a uniform graph's largest degree lies near 35 of 20
    assert torch.equal(power_law_graph(20000, num_features=5).edge_index, data.edge_index)
    assert not torch.equal(power_law_graph(20000, num_features=5, seed=1).edge_index, data.edge_index)
    # the exponent of the tail by Hill's estimator, over the degrees that the cutoff leaves alone
    tail = np.sort(degree.numpy())[-200:]
    assert 2.0 < 1 + 1 / np.log(tail / tail[0]).mean() < 4.0


def test_bound_counts_what_moves() -> None:
    sizes = Sizes(nodes=1000, features=32, feature_entries=32000, hidden=16, out=8, full_entries=9000,
                  retain_entries=8900, forget=50, retain=3950)  # fmt: skip
    by_name = {p.name: p for p in passes(sizes, "paper")}
    product = by_name["forward: A (X W1)"]
    once = 4 * (1000 + 2 * 9000 + 1000 * 16)
    assert product.bytes(0) == once + 4 * 9000 * 16
    assert product.bytes(4 * 1000 * 16) == product.bytes(math.inf) == once + 4 * 1000 * 16
    assert by_name["forward: X W1"].bytes(0) == 4 * (1000 * 32 + 32 * 16 + 1000 * 16)
    assert by_name["Adam"].bytes(0) == 7 * 4 * (32 * 16 + 16 + 16 * 8 + 8)
    paper, default = (step_bytes(sizes, mode, cache=0) for mode in ("paper", "default"))
    assert paper["compulsory"] < paper["bound"] < default["bound"]
    assert step_bytes(sizes, "paper", cache=math.inf)["bound"] == paper["compulsory"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("speed")
    main(Args(out, smoke=True))
    return out


def by_case(out: Path) -> dict[str, dict]:
    rows = json.loads((out / "results.json").read_text())
    found = {row["case"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_smoke(smoke) -> None:
    rows = by_case(smoke)
    things = [f"{part}-lesmis" for part in ("step", "parts", "run", "retrain")] + ["scale-1e2", "scale-1e3"]
    requests = {"utu-small-node", "utu-small-edge", "auto-small-state", "auto-small-no-state"}
    single = {f"requests-{name}" for name in requests}
    assert set(rows) == {thing + suffix for thing in things for suffix in ("", "-default")} | single
    for case, row in rows.items():
        assert {"case", "ours_s", "plain_s", "ratio", "ours_mb", "plain_mb", "edges", "bound_s"} <= set(row)
        assert row["ours_s"] > 0
        assert row["plain_s"] is not None or case.startswith(("retrain", "parts", "requests-auto"))
        if row["plain_s"] is not None:
            assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
        if case.startswith(("step", "run", "scale")):
            assert row["csr_ratio"] == pytest.approx(row["csr_s"] / row["ours_s"])
        if case.startswith(("step", "scale")):
            assert row["bound_s"] >= row["compulsory_s"] > 0
    assert rows["scale-1e3"]["edges"] == 1000
    assert rows["requests-utu-small-edge"]["first_s"] > 0
    assert rows["requests-auto-small-state"]["in_steps"] > rows["requests-auto-small-state"]["steps"] / 2
    assert (smoke / "tables.md").read_text().count("| scale-1e3 ") == 1
    assert (smoke / "scale.png").stat().st_size > 1000


@pytest.mark.parametrize("task", ["node_classification", "link_prediction"])
def test_masks_leave_what_a_request_leaves(task) -> None:
    data = graph_of("small")
    for request, what in asked(data, 2)[task]:
        mine, masked = request.resolve(data).retain_data, by_mask(data, task, what)
        assert torch.equal(mine.edge_index, masked.edge_index)
        assert torch.equal(mine.x, masked.x)
        assert torch.equal(mine.y, masked.y)


def test_every_pass_of_the_bound_is_of_one_kind() -> None:
    sizes = Sizes(nodes=1000, features=32, feature_entries=32000, hidden=16, out=8, full_entries=9000,
                  retain_entries=8900, forget=50, retain=3950)  # fmt: skip
    for mode in ("paper", "default"):
        for one in passes(sizes, mode):
            assert sum(is_one(one.name) for is_one in KINDS.values()) == 1, one.name
        moved = mebibytes(sizes, mode, cache=0)
        assert sum(moved.values()) == pytest.approx(step_bytes(sizes, mode, cache=0)["bound"] / 2**20)
        assert moved["rest"] == 0


def test_rows_of_other_parts_stay(smoke) -> None:
    before = set(by_case(smoke))
    main(Args(smoke, smoke=True, only=("scale",), sizes=(1e2,)))
    assert set(by_case(smoke)) == before


@pytest.mark.slow  # the imports of a new process
def test_a_measurement_in_a_process_of_its_own() -> None:
    spec = {"measure": "scale", "side": "ours", "edges": 100, "mode": "paper", "steps": 1}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.speed.worker", json.dumps(spec)],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["seconds"]) == 1
    assert result["threads"] == 1
    assert result["sizes"]["retain"] + result["sizes"]["forget"] == 100


def test_tables_are_filled_between_their_marks(tmp_path) -> None:
    text = "before\n<!-- table: step -->\nold\n<!-- end -->\nafter\n"
    row = {"case": "step-CS", "ours_s": 0.1, "plain_s": 1.0, "ratio": 10.0, "ours_mb": None, "plain_mb": 2.0,
           "edges": 5, "bound_s": 0.05}  # fmt: skip
    new = fill(text, [row, {**row, "case": "run-CS"}])
    before, table, after = new.partition("| step-CS")
    assert before.startswith("before\n")
    assert after.endswith("after\n")
    assert table
    assert not {"old", "run-CS"} & set(re.findall(r"[\w-]+", new))
    assert fill(new, [row, {**row, "case": "run-CS"}]) == new


def test_the_tables_of_a_million_edges_are_those_of_the_committed_rows(tmp_path: Path) -> None:
    folder = REPOSITORY / "experiments" / "speed"
    text, rows = (folder / "README.md").read_text(), json.loads((folder / "scalegun.json").read_text())
    assert scalegun.filled(text, rows) == text
    rows["bound"]["worst"] += 0.001
    assert scalegun.filled(text, rows) != text  # control
    scalegun.main(scalegun.Args(tmp_path, smoke=True))
    assert json.loads((tmp_path / "results.json").read_text())["bound"]["held"] == 4


def test_a_graph_that_does_not_fit_is_refused_before_it_is_made(monkeypatch) -> None:
    monkeypatch.setattr("experiments.speed.requests.PER_MILLION_EDGES", 1e9)
    monkeypatch.setattr("experiments.speed.requests.power_law_graph", lambda *_, **__: pytest.fail("it was made"))
    with pytest.raises(InvalidInputError, match=r"GiB of free memory .* --graphs products/10"):
        graph_of("products")


def test_the_highest_memory_is_seen() -> None:
    with Highest() as watch:
        large = torch.ones(2**26)
        time.sleep(0.1)
        del large
        time.sleep(0.1)
    with Highest() as after:
        time.sleep(0.1)
    assert watch.mb > after.mb + 200


def test_what_products_alone_would_leave() -> None:
    ms = {"features": 2.0, "adjacency": 3.0, "dense": 1.0, "losses": 4.0, "Adam": 2.0}
    parts = {"case": "parts-X"} | {kind: f"{ms.get(kind, 0.0):.1f} ms, 1%, 2 MiB" for kind in (*KINDS, "rest")}
    step = {"case": "step-X", "csr_ratio": 5.0}
    assert csr_over_products(parts, [step]) == pytest.approx(5 * 12 / 6)  # half of the step are products
    assert csr_over_products(parts, []) is None
