"""The same call on language models with adapters, denoisers, data sets of images, and graphs of every task."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torch_geometric.data import Batch, Data

import gunlearn as gu
from gunlearn.connectivity import Connection
from gunlearn.nn import backbone
from gunlearn.nn.zoo import MeanPooled
from gunlearn.seed import isolated_rng

pytestmark = pytest.mark.filterwarnings("ignore")  # of models that a few steps hardly train


def both_paths(*results: gu.Result, **options: object) -> Connection:
    """A line, and a curve of a few steps that forgets; the curve."""
    line = gu.connect(*results, points=3)
    curve = gu.connect(*results, points=3, path="bezier", steps=5, lr=1e-2, forgetting=0.1, **options)
    for found in (line, curve):
        for row in found.evaluation.rows:
            assert row["loss_retain"] > 0
            assert row["loss_forget"] > 0
    ends = [[row["loss_retain"] for row in (c.evaluation.rows[0], c.evaluation.rows[-1])] for c in (line, curve)]
    assert ends[0] == ends[1]  # the same items, drawn once
    assert line.evaluation.rows[1]["loss_retain"] != curve.evaluation.rows[1]["loss_retain"]
    return curve


def test_language_models_with_adapters() -> None:
    peft = pytest.importorskip("peft")
    facts = pytest.importorskip("tests.llm.facts")
    with isolated_rng(0):
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = peft.get_peft_model(copy.deepcopy(facts.fresh()), config)
    request, rows = gu.ForgetItems(index=[0, 1, 2]), facts.rows(range(4))
    found = both_paths(*(gu.unlearn(model, rows, request, m, "causal_lm", steps=2) for m in ("npo", "graddiff")))
    assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in found.path.moving)
    assert "losses and probabilities alone" in found.evaluation.notes["figures"]
    assert "forget_prob" in found.table()
    figures = pytest.importorskip("gunlearn.llm.metrics.row_figures").figures
    for t, row in zip((0, 0.5, 1), found.evaluation.rows, strict=True):
        expected = figures(found.dial.at(t), {"forget": rows[:3], "retain": rows[3:]})
        for part in expected:
            assert row[f"{part}_prob"] == pytest.approx(expected[part]["prob"], rel=1e-4)
    assert found.evaluation.rows[0]["forget_prob"] != found.evaluation.rows[0]["retain_prob"]  # control


def test_results_of_language_models_know_their_rows() -> None:
    pytest.importorskip("peft")
    facts, llm = pytest.importorskip("tests.llm.facts"), pytest.importorskip("gunlearn.llm")
    model, given = facts.fresh(), (facts.tokenizer(), facts.rows(range(2)))

    def run(method: str, kept: range) -> gu.Result:
        return llm.unlearn(model, *given, facts.rows(kept), method, max_steps=1, use_cpu=True, figure_rows=0)

    one, two = run("npo", range(2, 4)), run("graddiff", range(2, 4))
    assert len(gu.connect(one, two, points=3).evaluation.rows) == 3
    assert len(gu.connect(one, two, [dict(row) for row in one.partition.data], points=3).evaluation.rows) == 3
    with pytest.raises(gu.errors.InvalidInputError, match=r"two different requests|different data"):
        gu.connect(one, run("npo", range(3, 5)), points=3)


def test_language_models_from_two_folders(tmp_path: Path) -> None:
    """Where a model was read from is no part of its architecture; the control: another activation is."""
    pytest.importorskip("peft")
    facts, llm = pytest.importorskip("tests.llm.facts"), pytest.importorskip("gunlearn.llm")
    transformers = pytest.importorskip("transformers")
    for seed in (0, 1):
        facts.fresh(seed).save_pretrained(tmp_path / str(seed))
    load = transformers.AutoModelForCausalLM.from_pretrained
    first, second = (load(tmp_path / str(seed)).eval() for seed in (0, 1))
    given = facts.rows(range(4)), gu.ForgetItems(index=[0, 1, 2]), llm.CausalLM()
    assert len(gu.connect(first, second, *given, points=3).evaluation.rows) == 3
    other = load(tmp_path / "1", hidden_act="gelu").eval()
    with pytest.raises(ValueError, match="one architecture"):
        gu.connect(first, other, *given, points=3)


def test_denoisers() -> None:
    pytest.importorskip("diffusers")
    from tests.diffusion.test_denoising import FORGET, images, task
    from tests.tasks.cases import Denoiser

    model = Denoiser()
    both_paths(*(gu.unlearn(model, images(), FORGET, m, task(), steps=2) for m in ("npo", "graddiff")))


def test_data_sets_with_batch_normalisation() -> None:
    with isolated_rng(0):
        x, y = torch.randn(40, 4), torch.arange(40) % 3
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    data, request = TensorDataset(x, y), gu.ForgetItems(count=6)
    options = {"epochs": 2, "batch_size": 17}
    runs = [gu.unlearn(net, data, request, m, gu.ImageClassification(), **options) for m in ("npo", "graddiff")]
    assert "computed anew" in both_paths(*runs, batch_size=17).evaluation.notes["statistics"]


def graph(seed: int) -> Data:
    edges = torch.randint(8, (2, 12), generator=torch.Generator().manual_seed(seed))
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed + 50))
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), y=torch.tensor([seed % 2]))


@pytest.mark.parametrize("task", ["node_regression", "node_multilabel", "graph_classification"])
def test_other_tasks_on_graphs(task: str) -> None:
    if task == "graph_classification":
        data = gu.tasks.graph_split(Batch.from_data_list([graph(k) for k in range(20)]), seed=0)
        with isolated_rng(0):
            model, request = MeanPooled(backbone("gcn", 5, 8, 2)), gu.ForgetGraphs(count=3)
    else:
        one = Batch.from_data_list([graph(k) for k in range(5)])
        targets = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        y = targets if task == "node_regression" else (targets > 0).float()
        data = gu.node_split(Data(x=one.x, edge_index=one.edge_index, y=y), seed=0)
        with isolated_rng(0):
            model, request = backbone("gcn", 5, 8, 2), gu.ForgetNodes(count=3)
    both_paths(*(gu.unlearn(model, data, request, m, task, epochs=3) for m in ("graddiff", "gradient_ascent")))
