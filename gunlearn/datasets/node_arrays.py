"""Arrays of nodes in `.npy` and `.npz` files."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gunlearn.errors import DatasetNotFoundError, InvalidInputError

#: Names of arrays in an `.npz`, by what they hold.
_ARRAYS = {"ids": ("ids", "id", "node_id"), "features": ("features", "x"), "labels": ("labels", "y")}


def read_arrays(path: Path, kind: str) -> dict[str, Any]:
    """Return arrays of a file by what they hold; pickled objects are refused, because reading them runs code."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if not hasattr(loaded, "files"):
            return {kind: loaded}
        with loaded:
            names = set(loaded.files)
            if {"format", "shape", "data"} <= names:
                return {kind: sp.load_npz(path).tocsr()}
            if len(names) == 1:
                return {kind: loaded[loaded.files[0]]}
            kinds = {what: [name for name in known if name in names] for what, known in _ARRAYS.items()}
            unknown = sorted(names - {name for found in kinds.values() for name in found})
            if unknown or any(len(found) > 1 for found in kinds.values()) or not kinds[kind]:
                raise InvalidInputError(
                    f"Expected one array in {path}, or arrays named 'ids', 'features' and 'labels' (got "
                    f"{sorted(names)[:8]})"
                )
            return {what: loaded[found[0]] for what, found in kinds.items() if found}
    except FileNotFoundError:
        raise DatasetNotFoundError(f"Expected an array at {path.absolute()} (got no such file)") from None
    except InvalidInputError:
        raise
    except Exception as error:  # broken archives raise nearly anything
        raise InvalidInputError(
            f"Expected {path} to be a plain {path.suffix} array (got {type(error).__name__}: {error})"
        ) from error
