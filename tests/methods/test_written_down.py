"""What a result writes down does not tell whom it forgot: neither digests, nor counts, nor ids of the neighbourhood."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.utils import degree

import gunlearn as gu
from gunlearn.errors import CheckpointError
from gunlearn.nn.attach.operators import DeletionOperator
from tests.methods.cases import (
    CASES,
    HEAD_CASES,
    SHARD_CASES,
    MethodCase,
    fresh_model,
    make_data,
    run,
    same_weights,
    trained_model,
)

DATA = make_data()
OPERATORS = ("gnndelete", "gnndelete_ni", "inpo_s")


def large_and_small(task: str) -> list[gu.Request]:
    """An edge between nodes of many neighbours and one between nodes of few; for classification training nodes."""
    u, v = DATA.edge_index
    count = degree(u, DATA.num_nodes)
    if task == "node_classification":
        order = count.masked_fill(~DATA.train_mask, count.mean()).argsort()
        return [gu.ForgetNodes([int(order[i])]) for i in (-1, 0)]
    both = count[torch.stack([u, v])].sum(dim=0)
    return [gu.ForgetEdges([(int(u[i]), int(v[i]))]) for i in (both.argmax(), both.argmin())]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(entry, f"{path}/{key}")
    elif not isinstance(value, float):  # measured on the model, which one must have
        yield path, value


#: Of the model's own course, not of the graph's.
COURSE = ("/notes/chosen", "/notes/candidates", "/notes/iterations", "/notes/direction", "/notes/certificate/reason")


@pytest.mark.parametrize("case", [*CASES, *HEAD_CASES, *SHARD_CASES], ids=str)
def test_a_record_is_the_same_for_an_edge_of_a_hub_and_of_a_leaf(case: MethodCase, tmp_path: Path) -> None:
    records = []
    more = {"until": "end"} if case.method.startswith("inpo") else {}  # else one may end earlier than the other
    for number, request in enumerate(large_and_small(case.task)):
        result = run(case, trained_model(case.head or "pyg"), DATA, request=request, seed=1, **more)
        text = (result.save(tmp_path / str(number)) / "result.json").read_text()
        found = dict(leaves(json.loads(text)))
        records.append({k: v for k, v in found.items() if not k.startswith(("/checksums", *COURSE))})
    differs = {k for k in {**records[0], **records[1]} if records[0].get(k, ()) != records[1].get(k, ())}
    assert differs == {"/request_hash"}


def trials(num_nodes: int, *, items: bool = False) -> set[str]:
    """What a stranger computes who tries all edges (or items) with the formula of the digest, but not its key."""
    found = set()
    for pair in itertools.combinations(range(num_nodes), 1 if items else 2):
        ids = np.array(pair, "<i8").tobytes()
        for head in (b"edges:%d:" % num_nodes, b"edges:%d:2:" % num_nodes, b"request\0edges:%d:2:" % num_nodes):
            found |= {hashlib.sha256(head + ids).hexdigest()[:16]}
    return found


def test_no_digest_is_found_by_trying_all_edges(tmp_path: Path) -> None:
    data = gu.link_split(gu.load("karate"), 0.1, 0.1)
    request = gu.ForgetEdges(data.train_pos_edge_index[:, 7:8])
    result = gu.unlearn(gu.GCN(data.num_features), data, request, "utu")
    evaluation = gu.evaluate(result, references=[gu.GCN(data.num_features) for _ in range(2)])
    evaluation.save(tmp_path / "evaluation.json")
    evaluation.save_csv(tmp_path / "evaluation.csv")
    evaluation.report(tmp_path / "report.html")
    result.save(tmp_path / "result")
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".json", ".csv", ".html"))
    assert result.request_hash in written
    assert not any(trial in written for trial in trials(34))


@pytest.mark.parametrize("name", OPERATORS)
def test_no_tensor_lists_the_neighbourhood(name: str) -> None:
    result = run(name, trained_model("gcn"), DATA, epochs=2)
    hidden = [set(m.nodes.tolist()) for m in result.model.modules() if isinstance(m, DeletionOperator)]
    assert hidden
    assert all(0 < len(nodes) < DATA.num_nodes for nodes in hidden)
    for key, value in result.model.state_dict().items():
        assert set(value.flatten().tolist()) not in hidden, key
        if not value.is_floating_point() and value.numel() > 1:  # nor as a mask
            assert any(set(value[16:].ne(k).nonzero().view(-1).tolist()) not in hidden for k in (0, 1)), key


def in_files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize("name", OPERATORS)
def test_a_saved_operator_is_loaded_by_its_owner_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(name, trained_model("gcn"), DATA, epochs=2)
    listed = next(m for m in result.model.modules() if isinstance(m, DeletionOperator)).nodes.numpy().tobytes()
    sealed, opened = result.save(tmp_path / "sealed"), result.save(tmp_path / "open", node_ids=True)
    assert listed not in in_files(sealed)
    assert listed in in_files(opened)  # control
    out = result.model(DATA.x, DATA.edge_index)
    for folder in (sealed, opened):
        assert torch.equal(gu.Result.load(folder, fresh_model("gcn")).model(DATA.x, DATA.edge_index), out)
    monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path / "another" / "key"))
    assert torch.equal(gu.Result.load(opened, fresh_model("gcn")).model(DATA.x, DATA.edge_index), out)
    with pytest.raises(CheckpointError, match=r"node ids were sealed.*node_ids=True"):
        gu.Result.load(sealed, fresh_model("gcn"))


def test_operators_of_release_0_1_are_loaded() -> None:
    result = run("gnndelete", trained_model("gcn"), DATA, epochs=2)
    former = {}
    for name, value in result.model.state_dict().items():
        owner = result.model.get_submodule(name.rpartition(".")[0])
        former[name.replace("_extra_state", "nodes")] = owner.nodes if "_extra_state" in name else value
    from gunlearn.nn.attach.operators import restore_operators

    template = fresh_model("gcn")
    restore_operators(template, former)
    template.load_state_dict(former)
    assert same_weights(template, result.model)
    assert torch.equal(template(DATA.x, DATA.edge_index), result.model.eval()(DATA.x, DATA.edge_index))


def test_a_checkpoint_lists_nobody_either(tmp_path: Path) -> None:
    listed: list[bytes] = []

    class Stop(gu.Callback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            listed.extend(m.nodes.numpy().tobytes() for m in model.modules() if isinstance(m, DeletionOperator))
            control.should_save = True

        def on_save(self, *args: Any, **_: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("gnndelete", trained_model("gcn"), DATA, epochs=2, checkpoint_dir=tmp_path, callbacks=[Stop()])
    written = in_files(tmp_path)
    assert listed
    assert not any(ids in written for ids in listed)


def test_rows_and_models_of_a_grid_have_names_of_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger who knows all but one edge of the data could otherwise try it out on the names of folders and rows."""
    from gunlearn.bench import GridConfig, Recipe, run_grid

    config = GridConfig("karate", ("gnndelete",), count=2, recipe=Recipe(epochs=2, hidden_channels=4, out_channels=4))
    names = []
    for owner in ("one", "one", "another"):
        monkeypatch.setenv("GUNLEARN_KEY_FILE", str(tmp_path / f"{owner}.key"))
        out = tmp_path / f"{len(names)}"
        rows = run_grid(config, out)
        names.append(({p.name for p in (out / "models").iterdir()}, {row["key"] for row in rows}))
        assert not any({"affected", "touched"} & row["notes"].keys() for row in rows)
    assert names[0] == names[1]
    assert not names[0][0] & names[2][0]
    assert not names[0][1] & names[2][1]
