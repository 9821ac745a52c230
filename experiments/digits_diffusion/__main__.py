"""Class 3 is forgotten by a small diffusion model of digits: what looks forgotten, and what is; see README.md.

python -m experiments.digits_diffusion --out runs/digits_diffusion [--smoke] [--seeds 0 1] [--sizes small large]
"""

from dataclasses import dataclass
from typing import Any

import torch
import tyro

from experiments.common import StudyArgs, write_results
from experiments.denoisers.runs import BUDGET, METHODS
from experiments.denoisers.study import measured
from experiments.denoisers.tables import table
from experiments.digits_diffusion.model import STEPS, judge, large, setting

FORGOTTEN = 3
#: Options of the methods that are of this data set: the anchor is the digit that looks most like it.
OPTIONS: dict[str, dict[str, Any]] = {"CA": {"anchor": 8}}
#: Steps of training by the size of the model, as the specification has them.
SIZES: dict[str, dict[str, Any]] = {
    "small": {},
    "large": {"name": "digits-large", "network": large, "training": {"steps": 1500, "batch_size": 64, "lr": 2e-3}},
}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of base models and unlearning runs.
        sizes: of the models, see `SIZES`.
        methods: rows of the table; all by default.
        references: models trained without the forgotten digits, per seed; two tell the noise floor.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    sizes: tuple[str, ...] = ("small",)
    methods: tuple[str, ...] = tuple(METHODS)
    references: int = 2


def main(args: Args) -> None:
    """Run the study."""
    torch.set_num_threads(1)
    seeds, steps = ((0,), 4) if args.smoke else (args.seeds, STEPS)
    methods = {name: (METHODS[name][0], METHODS[name][1] | OPTIONS.get(name, {})) for name in args.methods}
    budget = {**BUDGET, "steps": 2, "batch_size": 8} if args.smoke else BUDGET
    rows = []
    for size in args.sizes:
        how = setting(steps, smoke=args.smoke, methods=methods, budget=budget, **({} if args.smoke else SIZES[size]))
        found = measured(how, seeds, (FORGOTTEN,), args.references, args.out / size)
        rows += [{**row, "size": size} for one in found.values() for row in one]
    tables = {size: table([row for row in rows if row["size"] == size]) for size in args.sizes}
    text = "\n\n".join(f"### {size}\n\n{one}" for size, one in tables.items())
    write_results(args.out, {"judge": judge()[1], "rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
