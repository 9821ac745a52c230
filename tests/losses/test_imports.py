"""The loss layer knows torch alone."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(importlib.util.find_spec("gunlearn.losses").origin).parent
FOREIGN = ("torch_geometric", "transformers", "peft", "diffusers", "networkx", "sklearn", "scipy")


def test_importing_loads_nothing_foreign() -> None:
    # Against a bare `import torch`, which may load third parties of its own.
    script = (
        "import json, sys, torch; before = set(sys.modules); import gunlearn.losses; "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    loaded = json.loads(done.stdout)
    assert "gunlearn" in loaded
    assert not set(loaded) & set(FOREIGN)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.name)
def test_modules_import_torch_errors_and_core_alone(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # functions included: not even lazily
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
    foreign = {
        name
        for name in names
        if name.split(".")[0] not in {*sys.stdlib_module_names, "torch"}
        and not name.startswith(("gunlearn.errors", "gunlearn.core", "gunlearn.losses"))
    }
    assert names
    assert not foreign
