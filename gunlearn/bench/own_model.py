"""The user's own model in a study, from a function in a Python file."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import nn
from torch_geometric.data import Data

from gunlearn.errors import InvalidInputError, UnsupportedModelError
from gunlearn.seed import isolated_rng


def own_model(path: str) -> Callable[[Data, int], nn.Module]:
    """Return the function `(data, seed) -> trained model` at `PATH.py:FUNCTION`, which runs under the seed.

    The function raises UnsupportedModelError where the user's code returns no torch module.

    Raises:
        InvalidInputError: no such file or function, or a file that does not run.
    """
    file, colon, name = path.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise InvalidInputError(f"Expected a model as PATH.py:FUNCTION (got '{path}')")
    if not Path(file).is_file():
        raise InvalidInputError(f"Expected a file with function '{name}' (got no '{file}')")
    function = getattr(_module(file), name, None)
    if not callable(function):
        raise InvalidInputError(f"Expected a function '{name}' in '{file}' (got {type(function).__name__})")

    def trained(data: Data, seed: int) -> nn.Module:
        with isolated_rng(seed):
            model = function(data, seed)
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(f"Expected the function to return a torch module (got {type(model).__name__})")
        return model

    return trained


def _module(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"Expected a Python file (got '{file}')")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # classes of the file are found by their module's name
    sys.path.insert(0, str(Path(file).resolve().parent))  # as python does for a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InvalidInputError(f"Expected '{file}' to run (got {type(error).__name__}: {error})") from error
    finally:
        sys.path.pop(0)
    return module
