"""Two processes under `accelerate launch` do what one does, and write what one writes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gunlearn as gu
from gunlearn.errors import InvalidInputError, MissingExtraError, UnsupportedModelError
from gunlearn.losses import NLL, NPO, GradientAscent, Prediction
from gunlearn.methods import INPO, NPOMethod
from gunlearn.nn.kernels.edge_scores import EdgePattern
from gunlearn.tasks.graph.link_prediction import EdgeItems
from gunlearn.tasks.graph.score_targets import ScoreTarget
from gunlearn.tasks.items.arrays import ArrayItems
from gunlearn.training.processes import Processes, processes, world_size
from tests.methods.cases import fresh_model, make_data, run
from tests.training import several_processes

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = """
accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no
--main_process_port 0
""".split()
COMPARED = [
    "train", "npo", "graddiff", "inpo:paper", "inpo:default", "inpo:unseen", "graddiff in batches", "npo on samples",
    "one edge", "until", "early stopping", "pyg", "autoencoder", "images", "batches", "accumulated", "whole", "resumed",
]  # fmt: skip
needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="needs accelerate: pip install 'gunlearn[distributed]'"
)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return several_processes.main(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes ended with."""
    out = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    command = [sys.executable, "-m", *LAUNCH, str(Path(several_processes.__file__)), str(out)]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in (0, 1)]


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


@needs_accelerate
class TestLaunched:
    @pytest.mark.parametrize("name", COMPARED)
    def test_history_and_weights_are_those_of_one_process(
        self, name: str, one: dict[str, Any], two: list[dict[str, Any]]
    ) -> None:
        for other in two:
            assert other["world"] == 2
            assert len(other["history"][name]) == len(one["history"][name]) > 2
            for mine, theirs in zip(one["history"][name], other["history"][name], strict=True):
                assert theirs == pytest.approx(mine, abs=1e-5)
            torch.testing.assert_close(other["weights"][name], one["weights"][name], atol=1e-5, rtol=0)

    def test_the_runs_try_what_they_should(self, one: dict[str, Any]) -> None:
        history = one["history"]
        assert len(history["until"]) < 40  # the target was reached
        assert len(history["early stopping"]) < 30
        assert "val_loss" in history["train"][4]
        for name in ("npo", "inpo:paper", "inpo:default"):  # the comparison would notice a run that does nothing
            assert distance(one["weights"][name], one["weights"]["train"]) > 1e-4

    def test_both_processes_end_alike(self, two: list[dict[str, Any]]) -> None:
        for name in (*COMPARED, "dropout"):
            torch.testing.assert_close(two[0]["weights"][name], two[1]["weights"][name], atol=0, rtol=0)
            assert two[0]["history"][name] == two[1]["history"][name]
        assert torch.equal(two[0]["random"], two[1]["random"])
        assert len(two[0]["random"].unique(dim=0)) > 3

    def test_dropout_of_a_decoder_is_drawn_anew(self, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
        mine, theirs = (run["history"]["dropout"] for run in (one, two[0]))
        assert mine != theirs  # other masks, the same law
        assert theirs[-1]["loss"] == pytest.approx(mine[-1]["loss"], rel=0.3)
        assert theirs[-1]["loss"] < 0.7 * theirs[0]["loss"]

    def test_checkpoints_are_written_once(self, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
        assert one["written"] == [2, 3, 3, 5]  # of the killed run, of the stopped one, and where that stopped
        assert two[0]["written"] == one["written"]
        assert two[1]["written"] == [5]
        assert two[0]["left"] == two[1]["left"] == one["left"] == []

    def test_resumed_from_the_checkpoint(self, two: list[dict[str, Any]]) -> None:
        for other in two:
            assert other["begun"] == [4, 5, 6]
            torch.testing.assert_close(other["weights"]["resumed"], other["weights"]["whole"], atol=0, rtol=0)

    def test_refusals(self, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
        assert one["unlike"] == one["batch norm"] == "nothing"
        for other in two:
            assert "Expected the same weights" in other["unlike"]
            assert "BatchNorm1d" in other["batch norm"]


def predictions(count: int, reference: bool = False) -> Prediction:
    generator = torch.Generator().manual_seed(count + reference)
    return Prediction(-torch.rand(count, generator=generator, dtype=torch.float64) - 0.1)


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_mean_over_shares_is_the_whole(world: int, reduction: str) -> None:
    objective = NPO(beta=2.0, reduction=reduction) - 0.3 * NLL(on="retain") + 0.2 * GradientAscent(on="retain")
    counts = {"forget": 5, "retain": 13}  # fewer than processes, and never a multiple
    items = {name: ArrayItems(torch.zeros(n, 1), torch.zeros(n)) for name, n in counts.items()}
    current = {name: predictions(n) for name, n in counts.items()}
    before = {name: predictions(n, reference=True) for name, n in counts.items()}
    whole = objective(current, before)
    shares, plain = [], []
    for rank in range(world):
        some = Processes(rank, world)
        mine, theirs = ({k: p.map(some.rows) for k, p in given.items()} for given in (current, before))
        shares.append(some.evaluate(objective, items, mine, theirs))
        plain.append(objective(mine, theirs).total)
    torch.testing.assert_close(torch.stack([s.total for s in shares]).mean(), whole.total)
    for name, value in whole.terms.items():
        torch.testing.assert_close(torch.stack([s.terms[name] for s in shares]).mean(), value)
    assert (torch.stack(plain).mean() - whole.total).abs() > 1e-4  # control: without the factors it is not


def test_masks_are_refused() -> None:
    masked = predictions(4).replace(mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(InvalidInputError, match="without a mask"):
        Processes(0, 2).evaluate(NLL(on="retain") + NPO(), {}, {"retain": masked})


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_node_pairs(world: int) -> None:
    generator = torch.Generator().manual_seed(0)
    chunks = tuple(EdgePattern(torch.randint(9, (2, n), generator=generator), 9) for n in (7, 0, 4, 1))
    items = EdgeItems(chunks, torch.arange(12.0), fixed=False, embeddings=True)
    for rank in range(world):
        share = items.share(rank, world)
        assert torch.equal(share.edge_label_index, items.edge_label_index[:, rank::world])
        assert torch.equal(share.label, items.label[rank::world])
        assert (share.fixed, share.embeddings, share.num_items) == (False, True, share.label.numel())
        assert all(a is b for a, b in zip(share.chunks, items.share(rank, world).chunks, strict=True))  # made once


def test_shares_of_rows() -> None:
    items = ArrayItems(torch.arange(14.0).view(7, 2), torch.arange(7), fixed=True)
    share = items.share(1, 3)
    assert (share.y.tolist(), share.x[:, 0].tolist(), share.fixed) == ([1, 4], [2.0, 8.0], True)


def test_random_numbers_of_a_share() -> None:
    drawn = {}
    for rank, turn in ((0, 0), (1, 0), (0, 1), (1, 1)):
        torch.manual_seed(5)
        some = Processes(rank, 2)
        some.turn = turn
        with some.apart(nn.Identity()):
            drawn[rank, turn] = float(torch.rand(()))
        assert torch.equal(torch.get_rng_state(), torch.random.manual_seed(5).get_state())
    assert len(set(drawn.values())) == 4
    torch.manual_seed(5)
    with Processes().apart(nn.Identity()):  # alone: nothing is done
        alone = torch.rand(3)
    assert torch.equal(alone, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_batch_normalisation_is_refused_where_a_share_is_decoded() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(UnsupportedModelError, match="BatchNorm1d"), Processes(0, 2).apart(model):
        model(torch.randn(4, 3))
    model(torch.randn(4, 3))  # afterwards, and in evaluation mode, it may
    with Processes(0, 2).apart(model.eval()):
        model(torch.randn(4, 3))


def test_alone_everything_is_handed_back() -> None:
    alone, items = Processes(), {"forget": object()}
    assert alone.main
    assert alone.share(items) == items
    assert alone.agree(0.25, True) == [0.25, True]
    alone.wait()


def twice(self: NPOMethod, usual: Any = NPOMethod.objective) -> Any:
    return 2.0 * usual(self)


@pytest.mark.parametrize(
    ("spec", "options", "cls", "name", "broken"),
    [
        # The gradient that the paper's estimate leaves behind is lost, or counted twice.
        ("inpo:paper", {}, INPO, "prepare", lambda self, problem: False),
        # The gradients of the processes are added up, where their mean is due.
        ("npo", {"weight_decay": 0.1}, NPOMethod, "objective", twice),
        # A process lets go the wrong edges, or none.
        ("inpo:unseen", {"lr": 5e-3}, ScoreTarget, "release", lambda self, predictions, rows: predictions),
    ],
    ids=["inpo:paper", "npo", "inpo:unseen"],
)
def test_the_comparison_would_notice(
    spec: str, options: dict[str, Any], cls: type, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Controls of the runs that two processes are compared on."""
    base = gu.train(fresh_model("gcn"), make_data(), epochs=30, lr=1e-2, eval_every=5).model
    right = run(spec, base, make_data(), epochs=10, **options).model
    monkeypatch.setattr(cls, name, broken)
    wrong = run(spec, base, make_data(), epochs=10, **options).model
    assert distance(right.state_dict(), wrong.state_dict()) > 1e-4


def test_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (world_size(), processes().world) == (1, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"gunlearn\[distributed\]"):
        processes.__wrapped__()
