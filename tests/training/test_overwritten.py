"""Checkpoints and results that were overwritten in random ways: none is used.

Each is refused with a CheckpointError, or nothing of it is read: a run ends as one that nobody killed, a folder loads
as the result that was saved last. 300 of them take half a minute: `pytest -m slow tests/training/test_overwritten.py`.
"""

import json
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gunlearn as gu
from gunlearn.errors import CheckpointError
from gunlearn.training.checkpoint import NAME
from tests.methods.cases import MethodCase, make_data, run, same_weights, trained_model
from tests.training.callbacks import Kill

DATA = make_data()
WEIGHTS, RECORD = "model.safetensors", "result.json"


# What happens to a file, or to a folder in which there are several, beside others like it.


def truncate(path: Path, draw: random.Random, others: list[Path]) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def flip(path: Path, draw: random.Random, others: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def zero(path: Path, draw: random.Random, others: list[Path]) -> None:
    """A block that the disk lost."""
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    size = min(draw.choice([1, 64, 512]), len(content) - start)
    content[start : start + size] = bytes(size)
    path.write_bytes(content)


def mix(path: Path, draw: random.Random, others: list[Path]) -> None:
    """The beginning of one file and the end of another, as after two writers at once."""
    one, two = path.read_bytes(), draw.choice(others).read_bytes()
    place = draw.randrange(1, len(one))
    path.write_bytes(one[:place] + two[place:])


def swap(path: Path, draw: random.Random, others: list[Path]) -> None:
    shutil.copy(draw.choice(others), path)


def leftovers(path: Path, draw: random.Random, others: list[Path]) -> None:
    """What killed writers left beside."""
    shutil.copy(draw.choice(others), path.with_name(f".{path.name}.{draw.getrandbits(64):x}.part"))
    path.with_name("tmpabc.part").write_bytes(path.read_bytes()[:100])


FILES: list[Callable[..., None]] = [truncate, flip, zero, mix, swap, leftovers]


# Checkpoints


def kept(case: MethodCase, model: Callable[[], nn.Module], folder: Path, **more: Any) -> Path:
    with pytest.raises(KeyboardInterrupt):
        run(case, model(), DATA, checkpoint_dir=folder, callbacks=[Kill()], epochs=4, **{"seed": 3, **more})
    return folder / NAME


def otherwise(model: nn.Module, p: float = 0.3) -> nn.Module:
    """Another model of the same weights: another dropout, another activation."""
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout | nn.ReLU):
                setattr(module, name, nn.Dropout(p) if isinstance(child, nn.Dropout) else nn.Tanh())
    return model


SPECS = ("npo", "finetune", "gnndelete", "retrain")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "usual": lambda: trained_model("pyg"),
    "otherwise": lambda: otherwise(trained_model("pyg")),
    "more dropout": lambda: otherwise(trained_model("pyg"), 0.6),
}


def checkpoints(folder: Path, number: int, seed: int = 0) -> Counter[str]:
    """Overwrite so many checkpoints; return how the runs ended."""
    cases = [MethodCase(name, options={"epochs": 4}, from_scratch=name == "retrain") for name in SPECS]
    starts = [(case, name, seed) for case in cases for name in MODELS for seed in (3, 4)]
    paths = {
        (case.method, name, seed): kept(case, MODELS[name], folder / f"{case.method} {name} {seed}", seed=seed)
        for case, name, seed in starts
    }
    whole = {
        (case.method, name, seed): run(case, MODELS[name](), DATA, epochs=4, seed=seed).model
        for case, name, seed in starts
    }
    draw, found = random.Random(seed), Counter[str]()
    for trial in range(number):
        case, name, seed = draw.choice(starts)
        key, at = (case.method, name, seed), folder / f"trial{trial}"
        shutil.copytree(paths[key].parent, at)
        change = FILES[trial % len(FILES)]
        change(at / NAME, draw, [path for other, path in paths.items() if other != key])
        try:
            model = run(case, MODELS[name](), DATA, checkpoint_dir=at, epochs=4, seed=seed).model
        except CheckpointError:
            found["refused"] += 1
        else:
            found["unharmed" if same_weights(model, whole[key]) else f"used: {change.__name__} {key}"] += 1
        shutil.rmtree(at)
    return found


# Results


def edit(folder: Path, draw: random.Random) -> None:
    """Another number in the record."""
    record = json.loads((folder / RECORD).read_text())
    name = draw.choice(["seed", "num_forget", "method", "request_hash", "epochs"])
    record[name] = 17 if name != "method" else "retrain"
    (folder / RECORD).write_text(json.dumps(record, indent=1))


def results(folder: Path, number: int, seed: int = 0) -> Counter[str]:
    """Overwrite so many results; return how loading them ended."""
    makers = {
        f"{m} {n} {s}": (m, n, s) for m in ("npo", "finetune", "utu", "gnndelete") for n in MODELS for s in (3, 4)
    }
    saved = {
        name: run(method, MODELS[model](), DATA, seed=seed, **({} if method == "utu" else {"epochs": 1}))
        for name, (method, model, seed) in makers.items()
    }
    folders = {name: result.save(folder / name) for name, result in saved.items()}
    draw, found = random.Random(seed), Counter[str]()
    for trial in range(number):
        name = draw.choice(list(saved))
        at = shutil.copytree(folders[name], folder / f"trial{trial}")
        others = [path for other, path in folders.items() if other != name]
        template = MODELS[makers[name][1]]()
        kind = trial % (2 * len(FILES) + 3)
        if kind < 2 * len(FILES):
            file = (WEIGHTS, RECORD)[kind // len(FILES)]
            FILES[kind % len(FILES)](at / file, draw, [path / file for path in others])
        elif kind == 2 * len(FILES):
            edit(at, draw)
        elif kind == 2 * len(FILES) + 1:
            (at / draw.choice([WEIGHTS, RECORD])).unlink()
        else:  # another model of the same shape
            template = MODELS[draw.choice([n for n in MODELS if n != makers[name][1]])]()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                loaded = gu.Result.load(at, template)
        except CheckpointError:
            found["refused"] += 1
        else:
            same = loaded.record() == json.loads(json.dumps(saved[name].record()))
            computed, expected = (m(DATA.x, DATA.edge_index) for m in (loaded.model, saved[name].model.eval()))
            unharmed = same and torch.equal(computed, expected)
            found["unharmed" if unharmed else f"used: {kind} of {name}"] += 1
        shutil.rmtree(at)
    return found


def check(found: Counter[str], number: int) -> None:
    print(dict(found))
    assert found["refused"] + found["unharmed"] == number, found
    assert found["refused"] > number / 2


@pytest.mark.parametrize("overwritten", [checkpoints, results])
def test_some_overwritten_files(overwritten: Callable[..., Counter[str]], tmp_path: Path) -> None:
    check(overwritten(tmp_path, 30, seed=1), 30)


@pytest.mark.slow
@pytest.mark.parametrize("overwritten", [checkpoints, results])
def test_300_overwritten_files(overwritten: Callable[..., Counter[str]], tmp_path: Path) -> None:
    """150 of each kind."""
    check(overwritten(tmp_path, 150), 150)


def test_the_comparison_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the hash of the content, overwritten checkpoints are used."""
    monkeypatch.setattr("gunlearn.training.checkpoint.content_hash", lambda payload: "the same")
    found = checkpoints(tmp_path, 30)
    assert any(how.startswith("used") for how in found)
