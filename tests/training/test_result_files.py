"""Saved results: weights and record belong together, to one model, and are written whole or not at all."""

import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

import gunlearn as gu
import gunlearn.training.result
from gunlearn.errors import CheckpointError, InvalidTypeError, UnsupportedModelError
from tests.methods.cases import fresh_model, make_data, run, same_weights, trained_model

DATA = make_data()


class Net(nn.Module):
    """Convolutions with what a user chooses between them."""

    def __init__(self, act: Callable[[Tensor], Tensor] = torch.relu, p: float = 0.1, cached: bool = False) -> None:
        super().__init__()
        self.a, self.b = GCNConv(8, 12, cached=cached), GCNConv(12, 6)
        self.act, self.drop = act, nn.Dropout(p)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.b(self.drop(self.act(self.a(x, edge_index))), edge_index)


class Other(Net):
    """The same modules in another order."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.b(self.act(self.drop(self.a(x, edge_index))).neg(), edge_index)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return gu.train(Net(), DATA, epochs=2).save(tmp_path / "result")


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_one_flipped_bit_of_the_weights_is_noticed(folder: Path) -> None:
    assert gu.Result.load(folder, Net()).method == "train"
    flip(folder / "model.safetensors", -7)
    with pytest.raises(CheckpointError, match="damaged, or of another result"):
        gu.Result.load(folder, Net())


def test_a_changed_record_is_noticed(folder: Path) -> None:
    path = folder / "result.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record, indent=4))  # other white space, the same record
    assert gu.Result.load(folder, Net()).seed == 0
    path.write_text(json.dumps({**record, "seed": 1}))
    with pytest.raises(CheckpointError, match=r"result\.json has changed"):
        gu.Result.load(folder, Net())


@pytest.mark.parametrize("name", ["model.safetensors", "result.json"])
def test_files_of_two_results_are_not_one(name: str, folder: Path, tmp_path: Path) -> None:
    other = gu.train(Net(), DATA, epochs=2, seed=1).save(tmp_path / "other")
    shutil.copy(other / name, folder / name)
    with pytest.raises(CheckpointError, match="another result"):
        gu.Result.load(folder, Net())
    assert gu.Result.load(other, Net()).seed == 1


@pytest.mark.parametrize("files", [0, 1, 2])
def test_a_save_that_is_killed_leaves_the_old_result_or_none(
    files: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first file is in its place, between the two, and after both."""
    before, after = gu.Result.load(folder, Net()), gu.unlearn(Net(), DATA, gu.ForgetEdges(count=2), "utu")
    replace, done = os.replace, []

    def killed(*paths: Path) -> None:
        if len(done) == files:
            raise KeyboardInterrupt
        done.append(replace(*paths))

    monkeypatch.setattr(os, "replace", killed)
    if files < 2:
        with pytest.raises(KeyboardInterrupt):
            after.save(folder)
    else:
        after.save(folder)
    if files == 1:
        with pytest.raises(CheckpointError, match="another result"):
            gu.Result.load(folder, Net())
    else:
        expected = after if files else before
        assert same_weights(gu.Result.load(folder, Net()).model, expected.model)
        assert gu.Result.load(folder, Net()).method == expected.method


def test_a_full_disk_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        gu.train(Net(), DATA, epochs=1, seed=1).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


TEMPLATES = {
    "activation": (lambda: Net(torch.tanh), "act of '' was relu, and is tanh"),
    "dropout": (lambda: Net(p=0.5), "p of 'drop' was 0.1, and is 0.5"),
    "class": (Other, "class of '' was Net, and is Other"),
    "precision": (lambda: Net().half(), "torch.float32, and torch.float16"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_model_of_the_same_shape_that_computes_otherwise_is_refused(name: str, folder: Path) -> None:
    make, words = TEMPLATES[name]
    with pytest.raises(CheckpointError, match=words):
        gu.Result.load(folder, make())
    if name in ("activation", "dropout"):
        with pytest.warns(UserWarning, match=words):
            loaded = gu.Result.load(folder, make(), strict=False)
        assert same_weights(loaded.model, gu.Result.load(folder, Net()).model)


def test_other_code_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "forward", Other.forward)  # the user edits the class
    with pytest.raises(CheckpointError, match="code of 'Net' differs"):
        gu.Result.load(folder, Net())


def test_what_a_template_keeps_of_its_graph_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    """A layer with `cached=True` would go on with the adjacency that still holds the forgotten edges."""
    template = Net(cached=True).eval()
    template(DATA.x, DATA.edge_index)
    few = DATA.edge_index[:, :10]
    result = gu.unlearn(template, DATA, gu.ForgetEdges(count=5), "utu")
    loaded = gu.Result.load(result.save(tmp_path / "cached"), template)
    assert torch.equal(loaded.model(DATA.x, few), result.model(DATA.x, few))
    assert template.a._cached_edge_index is not None  # the caller's own


def test_results_of_release_0_1_are_loaded_with_a_warning(folder: Path) -> None:
    path = folder / "result.json"
    record = json.loads(path.read_text())
    del record["checksums"], record["architecture"]
    path.write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="no checksums"):
        assert gu.Result.load(folder, Net()).method == "train"


def test_a_compiled_model_with_operators_is_loaded(tmp_path: Path) -> None:
    result = run("gnndelete", torch.compile(trained_model("gcn"), backend="eager"), DATA, epochs=1)
    loaded = gu.Result.load(result.save(tmp_path), torch.compile(fresh_model("gcn"), backend="eager"))
    assert same_weights(loaded.model, result.model)


def test_a_state_of_other_things_than_tensors_is_refused(tmp_path: Path) -> None:
    class Odd(Net):
        def get_extra_state(self) -> Any:
            return {"a": 1}

        def set_extra_state(self, state: Any) -> None: ...

    with pytest.raises(UnsupportedModelError, match="_extra_state"):
        gu.Result(Odd(), "train").save(tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_settings_without_a_json_form_are_saved_by_name(tmp_path: Path) -> None:
    sgd = torch.optim.SGD
    result = run("npo", trained_model("gcn"), DATA, epochs=1, optimizer=lambda p: sgd(p, 0.1))
    loaded = gu.Result.load(result.save(tmp_path), fresh_model("gcn"))
    assert "lambda" in loaded.config["optimizer"]


def test_no_noise_in_usual_use(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name in ("gcn", "pyg", "gae"):
            result = run("npo", trained_model(name), DATA, epochs=1)
            gu.Result.load(result.save(tmp_path / name), fresh_model(name))
            gu.Result.load(result.save(tmp_path / name), trained_model(name))  # over the old one


MODES: list[tuple[int, int, int, int]] = [
    (0o022, 0o755, 0o755, 0o644),
    (0o077, 0o755, 0o700, 0o600),
    (0o022, 0o775, 0o775, 0o664),
    (0o077, 0o2770, 0o2770, 0o660),
]


@pytest.mark.skipif(os.name == "nt", reason="no modes of files")
@pytest.mark.parametrize(("umask", "around", "inner", "file"), MODES)
def test_files_have_the_rights_that_umask_and_folder_say(
    umask: int, around: int, inner: int, file: int, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(around)
    result, before = gu.train(Net(), DATA, epochs=1), os.umask(umask)
    try:
        folder = result.save(shared / "result")
    finally:
        os.umask(before)

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(folder) & 0o777 == inner & 0o777
    assert {mode(path) for path in folder.iterdir()} == {file}


def test_another_users_model_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it can be read or not; and one's own, if damaged, is replaced with a warning."""
    from gunlearn.bench.models import ModelStore, Recipe

    data = gu.link_split(gu.load("karate"), seed=0)
    recipe = Recipe(epochs=2, hidden_channels=4, out_channels=4)

    def base() -> tuple[gu.Result, list[str]]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", UserWarning)
            found = ModelStore(tmp_path, recipe, gu.LinkPrediction()).base(data, 0)
        return found, [str(w.message) for w in seen]

    first, said = base()
    assert said == []
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    content = (folder / "model.safetensors").read_bytes()
    flip(folder / "model.safetensors", -3)
    damaged = (folder / "model.safetensors").read_bytes()
    user = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user + 1)
        second, said = base()
    assert [any(words in text for text in said) for words in ("trained again", "another user")] == [True, True]
    assert same_weights(first.model, second.model)
    assert (folder / "model.safetensors").read_bytes() == damaged
    _, said = base()
    assert len(said) == 1
    assert (folder / "model.safetensors").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, f".{folder.name}.lock"])
    assert base()[1] == []


def test_callers_tensors_get_no_gradient() -> None:
    """Neither features nor weights, through no entry; and what comes out is that of detached data."""
    data, plain = make_data(), make_data()
    data.x.requires_grad_()
    data.edge_weight = torch.ones(data.num_edges, requires_grad=True)
    plain.edge_weight = torch.ones(data.num_edges)
    entries: list[Callable[[Any], Any]] = [
        lambda d: gu.train(fresh_model("gcn"), d, epochs=1).model,
        lambda d: gu.influence(trained_model("gcn"), d, estimator="first_order"),
        *(lambda d, m=m: gu.unlearn(trained_model("gcn"), d, gu.ForgetEdges(count=3), m).model for m in ("npo", "gif")),
    ]
    for entry in entries:
        found, expected = entry(data), entry(plain)
        alike = same_weights if isinstance(found, nn.Module) else torch.equal
        assert alike(found, expected)
        assert data.x.grad is None
        assert data.edge_weight.grad is None
    assert data.x.requires_grad
    result = gu.unlearn(trained_model("gcn"), data, gu.ForgetEdges(count=3), "finetune", epochs=1)
    gu.evaluate(result, train=lambda d, seed: gu.train(fresh_model("gcn", seed), d, epochs=1, seed=seed).model)
    items = (torch.randn(20, 4, requires_grad=True), torch.arange(20) % 2)
    gu.unlearn(nn.Linear(4, 2), items, gu.ForgetItems([1]), "npo", "image_classification", epochs=1)
    assert data.x.grad is None
    assert items[0].grad is None


def test_folder_and_model_in_the_other_order_or_a_class_are_told() -> None:
    for folder, model in ((torch.nn.Linear(1, 1), "folder"), ("folder", torch.nn.Linear)):
        with pytest.raises(InvalidTypeError, match=r"Result\.load\(folder, model\)"):
            gu.Result.load(folder, model)
