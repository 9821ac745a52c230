"""Denoisers of one study: trained, trained without a class, and unlearned, each kept in a file."""

import copy
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gunlearn as gu
from experiments.denoisers.kept import kept
from gunlearn.bench.store import atomic_write
from gunlearn.diffusion import Denoising
from gunlearn.errors import GunlearnError

#: Of spec 6.5, for every method: Adam at 2e-4, 100 steps, 32 images of each part per step, gradients clipped at 1.
BUDGET: dict[str, Any] = {"steps": 100, "batch_size": 32, "lr": 2e-4, "max_grad_norm": 1.0}
#: Share of the images that are learned without their class, so that a model can be guided.
NULL_RATE = 0.1
#: Methods by what tables call them; a retain loss of weight 1 where a method has one.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuning": ("finetune", {}),
    "GA": ("gradient_ascent", {}),
    "GradDiff": ("graddiff", {}),
    "NPO": ("npo", {"beta": 50.0}),
    "SCRUB": ("scrub", {}),
    "RL": ("random_label", {"retain_weight": 1.0}),
    "SalUn": ("random_label", {"retain_weight": 1.0, "saliency": 0.5}),
    "ESD": ("esd", {"retain_weight": 1.0, "source": "data"}),
    "ESD, own samples": ("esd", {"retain_weight": 1.0}),
    "ESD, no data": ("esd", {}),
    "CA": ("concept_ablation", {}),
    "SA, no penalty": ("selective_amnesia", {"penalty_weight": 0.0}),
    "SA": ("selective_amnesia", {}),
}


@dataclass(frozen=True)
class Setting:
    """What a study is about.

    Attributes:
        name: of the files.
        task: how denoisers are called.
        data: images `[n, channels, height, width]` and their classes `[n]`.
        network: makes a new denoiser of a seed.
        training: options of `gunlearn.train`.
        budget: options of every method.
        judge: returns logits of images.
        features: their name, and a function from images to features `[n, dim]`.
        figures: further arguments of `evaluate_denoisers`.
        methods: see `METHODS`.
    """

    name: str
    task: Denoising
    data: tuple[Tensor, Tensor]
    network: Callable[[int], nn.Module]
    training: Mapping[str, Any]
    judge: Callable[[Tensor], Tensor]
    features: tuple[str, Callable[[Tensor], Tensor]]
    budget: Mapping[str, Any] = field(default_factory=lambda: BUDGET)
    figures: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, dict[str, Any]]] = field(default_factory=lambda: METHODS)

    def without(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images and classes of all but some classes."""
        x, y = self.data
        other = ~torch.isin(y, torch.tensor([*classes], dtype=y.dtype))
        return x[other], y[other]

    def trained(self, seed: int, without: Sequence[int] = (), folder: Path | None = None) -> nn.Module:
        """Return a denoiser that was drawn and trained under a seed, without the images of some classes."""
        data, own = self.without(without), self.task
        task = Denoising(own.noise_schedule, null=own.null, null_rate=NULL_RATE)
        content = (seed, [*without], sorted(self.training.items()), own.noise_schedule.prediction_type, data[0].shape)

        def make(model: nn.Module) -> nn.Module:
            return gu.train(model, data, task, seed=seed, keep_state=False, **self.training).model

        return kept(f"{self.name}-trained-{seed}", content, self.network(seed), make, folder)


@dataclass(frozen=True)
class Unlearned:
    """A model that forgot, with what it cost.

    Attributes:
        model: `None` where the method refused.
        info: `seconds`, `steps`, what was `warned` of, and the `error` of a refusal.
    """

    model: nn.Module | None
    info: dict[str, Any]


def unlearned(
    setting: Setting, row: str, start: nn.Module, seed: int, forget: int, gone: Sequence[int], folder: Path
) -> Unlearned:
    """Return `start` after one class was forgotten by the method of a row.

    Args:
        setting: of the study.
        row: a key of `setting.methods`.
        start: the model before.
        seed: of the run.
        forget: the class.
        gone: classes that were forgotten before, whose images are no longer there.
        folder: of the files; what was computed before is read from it.
    """
    method, options = setting.methods[row]
    about = folder / f"{setting.name}-{row.replace(', ', '-').replace(' ', '-')}-{seed}-{forget}.json"
    x, y = setting.without(gone)
    given = {**setting.budget, **options}
    info: dict[str, Any] = {}

    def make(_: nn.Module) -> nn.Module:
        begin = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = gu.unlearn(
                start, (x, y), gu.ForgetItems(mask=y == forget), method, setting.task, seed=seed, **given
            )
        info["seconds"], info["steps"] = time.perf_counter() - begin, len(result.history)
        info["warned"] = "collapse" if any("collapsed" in str(one.message) for one in caught) else ""
        return result.model

    content = (row, method, sorted(options.items()), sorted(setting.budget.items()), seed, forget, [*gone], x.shape)
    name = f"{setting.name}-unlearned-{seed}"
    try:
        model = kept(name, (content, sorted(setting.training.items())), copy.deepcopy(start), make, folder)
    except GunlearnError as error:
        return Unlearned(None, {"error": str(error)})
    if info or not about.exists():
        atomic_write(about, json.dumps(info) + "\n")
    return Unlearned(model, json.loads(about.read_text()))
