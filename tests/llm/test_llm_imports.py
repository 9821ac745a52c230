"""What `gunlearn.llm` loads, and what it says where transformers is missing."""

from __future__ import annotations

import ast
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import gunlearn.llm
from gunlearn.errors import MissingExtraError

ROOM = Path(gunlearn.llm.__file__).parent
FORBIDDEN = (
    "torch_geometric",
    "gunlearn.nn.attach",
    "gunlearn.nn.hetero",
    "gunlearn.nn.layers",
    "gunlearn.tasks.graph",
    "gunlearn.methods.graph",
    "gunlearn.methods.operators",
    "gunlearn.methods.second_order",
    "gunlearn.methods.linear_head",
    "gunlearn.methods.shards",
    "gunlearn.attribution",
    "gunlearn.api",
)


def test_all_names_are_there() -> None:
    assert all(getattr(gunlearn.llm, name) is not None for name in gunlearn.llm.__all__)
    assert set(gunlearn.llm.__all__) <= set(dir(gunlearn.llm))
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = gunlearn.llm.Trainer


def test_no_graph_is_loaded_with_the_trainer() -> None:
    code = "import sys, gunlearn.llm; gunlearn.llm.UnlearnTrainer; gunlearn.llm.unlearn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = done.stdout.split()
    assert "transformers" in loaded
    assert not [name for name in loaded if name.startswith(FORBIDDEN)]


def at_the_top(path: Path) -> list[str]:
    """Modules that a file loads when it is loaded itself: not those of functions, nor of type checking."""
    found, queue = [], list(ast.parse(path.read_text()).body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            queue += node.body + getattr(node, "orelse", [])
    return found


def test_no_file_of_the_room_loads_graphs() -> None:
    files = sorted(ROOM.rglob("*.py"))
    assert len(files) > 5
    for path in files:
        assert not [name for name in at_the_top(path) if name.startswith(FORBIDDEN)], path


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    with pytest.raises(MissingExtraError, match=r"gunlearn\[llm\]"):
        runpy.run_path(str(ROOM / "__init__.py"))
