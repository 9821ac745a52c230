"""Class 3 is forgotten by a small diffusion model of digits: what looks forgotten, and what is; see README.md.

python -m experiments.digits_diffusion --out runs/digits_diffusion [--smoke] [--seeds 0 1]
"""

import json
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import tyro

import gunlearn as gu
from experiments.common import StudyArgs, markdown, write_results
from experiments.digits_diffusion.model import STEPS, accuracies, denoising, digits, judge, trained
from gunlearn.bench.store import atomic_write
from gunlearn.diffusion.metrics import ImageAlignment, ImageSampler
from gunlearn.diffusion.noised_items import draw_items
from gunlearn.metrics import standings

FORGOTTEN = 3
SHARED: dict[str, Any] = {"steps": 100, "batch_size": 32, "lr": 2e-4, "max_grad_norm": 1.0}
#: Spec, options: the same budget for all; a retain loss of weight 1 where the method has one.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuning": ("finetune", {}),
    "GA": ("gradient_ascent", {}),
    "GradDiff": ("graddiff", {}),
    "NPO": ("npo", {"beta": 50.0}),
    "SCRUB": ("scrub", {}),
    "RL": ("random_label", {"retain_weight": 1.0}),
    "SalUn": ("random_label", {"retain_weight": 1.0, "saliency": 0.5}),
    "ESD, no data": ("esd", {}),
    "ESD, retain": ("esd", {"retain_weight": 1.0}),
    "CA, anchor 8": ("concept_ablation", {"anchor": 8}),
    "SA, no penalty": ("selective_amnesia", {"penalty_weight": 0.0}),
    "SA": ("selective_amnesia", {}),
}
HEAD = ["model", "UA", "RA", "forget loss", "retain loss", "distance to retraining", "gain", "seconds", "warned of"]


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        seeds: of the unlearning runs.
        runs: names of `RUNS`; all by default.
        references: models trained without the forgotten digits, under seeds 0, 1, ...; two tell the noise floor.
    """

    seeds: tuple[int, ...] = (0,)
    runs: tuple[str, ...] = tuple(RUNS)
    references: int = 2


def losses(model: Any) -> tuple[float, float]:
    """Mean denoising loss of the forgotten and of the other digits, with fixed noise."""
    (x, y), task, draw = digits(), denoising(), torch.Generator().manual_seed(1)
    found = []
    with torch.no_grad():
        for mask in (y == FORGOTTEN, y != FORGOTTEN):
            items = draw_items(task.noise_schedule, x[mask][:180], y[mask][:180], generator=draw)
            found.append(float(-task.decode(model, None, items).log_prob.mean()))
    return found[0], found[1]


def figures(model: Any, smoke: bool) -> dict[str, float]:
    ua, ra = accuracies(model, FORGOTTEN, per_class=2 if smoke else 16)
    forget, retain = losses(model)
    return {"ua": ua, "ra": ra, "forget_loss": forget, "retain_loss": retain}


def main(args: Args) -> None:
    steps, few = (4, {"steps": 2, "batch_size": 8}) if args.smoke else (STEPS, {})
    args.out.mkdir(parents=True, exist_ok=True)
    (x, y), task = digits(), denoising()
    original, retrained = (
        trained(steps=steps),
        [trained(FORGOTTEN, seed, steps=steps) for seed in range(args.references)],
    )
    request = gu.ForgetItems(mask=y == FORGOTTEN)
    rows: list[dict[str, Any]] = []
    kept: dict[str, Any] = {"original": original}
    rows.append({"model": "original", **figures(original, args.smoke)})
    rows += [{"model": f"retrained {k}", **figures(model, args.smoke)} for k, model in enumerate(retrained)]
    for name in args.runs:
        spec, options = RUNS[name]
        for seed in args.seeds:
            start = time.perf_counter()
            given = SHARED | (options if not args.smoke else options | few)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = gu.unlearn(original, (x, y), request, spec, task, seed=seed, **given)
            said = "collapse" if any("collapsed" in str(one.message) for one in caught) else ""
            row = {"model": name, "seed": seed, **figures(result.model, args.smoke), "warned": said}
            rows.append(row | {"seconds": time.perf_counter() - start})
            kept[f"{name} {seed}"] = result.model
            print(rows[-1], flush=True)
            atomic_write(args.out / "rows.json", json.dumps(rows, indent=1))
    sampler = ImageSampler(4 if args.smoke else 48, num_steps=4 if args.smoke else 20)
    supplier = ImageAlignment(task, torch.tensor([FORGOTTEN]), (1, 8, 8), sampler, num_draws=2 if args.smoke else 8)
    compared = {**kept, "retrained 0": retrained[0]}
    for name, at in standings(compared, retrained, supplier, original).items():
        row = next(row for row in rows if name in (row["model"], f"{row['model']} {row.get('seed')}"))
        row |= {"alignment": at.value, "floor": at.floor, "gain": None if name == "original" else at.gain}
    write_results(args.out, {"judge": judge()[1], "rows": rows}, table(rows))
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    def shown(value: Any, form: str) -> str:
        return "" if value is None else format(value, form)

    body = [
        [
            row["model"], shown(row["ua"], ".2f"), shown(row["ra"], ".2f"), shown(row["forget_loss"], ".3f"),
            shown(row["retain_loss"], ".3f"), shown(row.get("alignment"), ".3f"), shown(row.get("gain"), ".2f"),
            shown(row.get("seconds"), ".0f"), row.get("warned", ""),
        ]
        for row in rows
    ]  # fmt: skip
    return markdown(HEAD, body)


if __name__ == "__main__":
    main(tyro.cli(Args))
