"""Files of an influence study."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gunlearn.attribution.study.study import Study
from gunlearn.bench.store import atomic_write, csv_text, json_plain
from gunlearn.errors import CheckpointError


def write_study(study: Study, out: str | Path) -> None:
    """Write `influence.json` (rows), `influence.csv`, and `influence.npz` (items, scores, settings) into a folder."""
    out = Path(out)
    rows = json_plain(study.rows)
    atomic_write(out / "influence.json", json.dumps(rows, indent=1, allow_nan=False) + "\n")
    atomic_write(out / "influence.csv", csv_text(rows))
    arrays: dict[str, Any] = {f"estimate/{name}": scores.numpy() for name, scores in study.estimates.items()}
    arrays |= {"items": study.items.numpy(), "truth": study.truth.numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays, settings=np.array(json.dumps(json_plain(study.settings))))
    atomic_write(out / "influence.npz", buffer.getvalue())


def read_study(directory: str | Path) -> Study:
    """Read what `write_study` wrote.

    Raises:
        CheckpointError: no study there, or not one of ours.
    """
    directory = Path(directory)
    try:
        rows = json.loads((directory / "influence.json").read_text(encoding="utf-8"))
        with np.load(directory / "influence.npz", allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        settings = json.loads(str(arrays.pop("settings")))
        items, truth = torch.from_numpy(arrays.pop("items")), torch.from_numpy(arrays.pop("truth"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"Expected the output folder of 'gunlearn influence' with influence.json and influence.npz "
            f"(got {directory}: {error})"
        ) from error
    estimates = {name.removeprefix("estimate/"): torch.from_numpy(scores) for name, scores in arrays.items()}
    return Study(rows, items, truth, estimates, settings)
