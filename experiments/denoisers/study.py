"""One class after the other is forgotten by every method, and each result is compared with retrained models."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.denoisers.figures import rows_of
from experiments.denoisers.runs import Setting, unlearned
from gunlearn.bench.store import atomic_write
from gunlearn.diffusion.metrics import ImageSampler, image_alignment

Rows = dict[str, list[dict[str, Any]]]


def measured(setting: Setting, seeds: Sequence[int], turns: Sequence[int], references: int, out: Path) -> Rows:
    """Return the rows of every seed and turn; a killed run goes on where it stopped.

    Args:
        setting: of the study.
        seeds: of base models and runs.
        turns: classes, forgotten one after the other.
        references: number of models trained without all that is forgotten, per seed and turn, from other seeds.
        out: folder of the outputs; models stand in its folder `models`.
    """
    path, folder = out / "rows.json", out / "models"
    rows: Rows = json.loads(path.read_text()) if path.exists() else {}
    for seed in seeds:
        original = setting.trained(seed, folder=folder)
        now: dict[str, nn.Module] = dict.fromkeys(setting.methods, original)
        for turn, forget in enumerate(turns):
            gone, before = turns[: turn + 1], turns[:turn]
            retrained = [setting.trained(100 * (seed + 1) + k, gone, folder) for k in range(references)]
            infos, refused = {}, []
            for row, start in list(now.items()):
                done = unlearned(setting, row, start, seed, forget, before, folder)
                infos[row] = done.info | {"price": done.info.get("steps", 0) / setting.training["steps"]}
                print(setting.name, seed, forget, row, done.info, flush=True)
                if done.model is None:
                    refused.append({"model": row, "seed": seed, "error": done.info["error"]})
                    del now[row]
                else:
                    now[row] = done.model
            key = f"{seed} {turn + 1}"
            if not set(now) <= {row["model"] for row in rows.get(key, [])}:
                found = rows_of(setting, now, original, retrained, gone, seed)
                rows[key] = [{**one, **infos.get(one["model"], {}), "turn": turn + 1} for one in (*found, *refused)]
                same = {"alignment_forget": with_itself(setting, retrained[0], gone)}
                rows[key].append({"model": "itself", "seed": seed, **same, "turn": turn + 1})
                atomic_write(path, json.dumps(rows, indent=1) + "\n")
    return rows


def with_itself(setting: Setting, model: nn.Module, gone: Sequence[int]) -> float:
    """Return the alignment of a model with its copy, which is 0 where both see the same noise."""
    shape = tuple(setting.data[0].shape[1:])
    sampler = ImageSampler(n_samples=8, num_steps=setting.figures["num_steps"])
    return image_alignment(model, copy.deepcopy(model), setting.task, torch.tensor([*gone]), shape, sampler).value
