"""What `gunlearn.llm` loads, and what it says where transformers is missing."""

import importlib.util
import runpy
from collections import defaultdict
from pathlib import Path

import pytest

import gunlearn.llm
from gunlearn.errors import MissingExtraError
from tests.test_house import imports, reached

GRAPHS = (
    "nn.attach nn.hetero nn.layers tasks.graph methods.graph methods.operators methods.second_order "
    "methods.linear_head methods.shards attribution api"
).split()
FORBIDDEN = ("torch_geometric", *(f"gunlearn.{room}" for room in GRAPHS))


def test_all_names_are_there() -> None:
    assert all(getattr(gunlearn.llm, name) is not None for name in gunlearn.llm.__all__)
    assert set(gunlearn.llm.__all__) <= set(dir(gunlearn.llm))
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = gunlearn.llm.Trainer


def test_no_file_of_the_room_loads_graphs() -> None:
    """Not even through what it imports; imports inside functions and for type checkers do not count."""
    graph: dict[str, set[str]] = defaultdict(set)
    for found in imports():
        if found.where == "module":  # it loads the packages that it lies in, too
            parts = found.target.split(".")
            graph[found.module].update(".".join(parts[:n]) for n in range(1, len(parts) + 1))

    def graphs(*rooms: str) -> list[str]:
        return [name for name in reached(graph, rooms) if name.startswith(FORBIDDEN)]

    room = [name for name in graph if name.startswith("gunlearn.llm.")]
    assert len(room) > 50
    assert not graphs(*room)
    assert graphs("gunlearn.api")  # control


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(MissingExtraError, match=r"gunlearn\[llm\]"):
        runpy.run_path(str(Path(gunlearn.llm.__file__)))
