"""What `gunlearn.diffusion` loads, and what it says where diffusers is missing."""

import importlib.util
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import gunlearn.diffusion
from gunlearn.errors import MissingExtraError
from tests.llm.test_llm_imports import FORBIDDEN
from tests.test_house import imports, reached


def test_no_file_of_the_room_loads_graphs() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for found in imports():
        if found.where == "module":
            parts = found.target.split(".")
            graph[found.module].update(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    room = [name for name in graph if name.startswith("gunlearn.diffusion.")]
    assert len(room) > 15
    assert not [name for name in reached(graph, room) if name.startswith(FORBIDDEN)]


def test_other_work_loads_no_diffusers() -> None:
    """Nor does the task: it reads any scheduler that has `alphas_cumprod`."""
    code = (
        "import sys, gunlearn as gu, gunlearn.diffusion, gunlearn.diffusion.denoising, gunlearn.methods.published\n"
        "data = gu.load('karate'); gu.train(gu.GCN(34, 4, 4), gu.link_split(data, 0.1, 0.1), epochs=1)\n"
        "assert 'diffusers' not in sys.modules, 'diffusers'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else find(name))
    with pytest.raises(MissingExtraError, match=r"gunlearn\[diffusion\]"):
        runpy.run_path(str(Path(gunlearn.diffusion.__file__)))
