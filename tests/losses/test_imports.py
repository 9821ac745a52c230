"""The loss layer knows torch alone."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_modules_import_torch_errors_and_core_alone() -> None:
    names = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # functions included: not even lazily
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
    own = ("gunlearn.errors", "gunlearn.core", "gunlearn.losses")
    foreign = {name for name in names if not name.startswith(own)}
    assert {name.split(".")[0] for name in foreign} - {*sys.stdlib_module_names} == {"torch"}
