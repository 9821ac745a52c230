"""Two classes of clothes are forgotten by a diffusion model, one after the other; see README.md.

python -m experiments.fashion_diffusion --out runs/fashion_diffusion [--root DATA] [--smoke] [--seeds 0]
"""

from dataclasses import dataclass

import torch
import tyro

from experiments.common import StudyArgs, write_results
from experiments.denoisers.runs import BUDGET, METHODS
from experiments.denoisers.study import measured
from experiments.denoisers.tables import by_turn
from experiments.fashion_diffusion.model import setting

#: Sneaker, then ankle boot, which is near to it.
TURNS = (7, 9)
ROWS = ("fine-tuning", "GA", "NPO", "RL", "SalUn", "ESD", "SA")


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of base models and unlearning runs.
        methods: rows of the tables; all by default.
        references: models trained without what is forgotten, per seed and request; two tell the noise floor.
    """

    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = ROWS
    references: int = 2


def main(args: Args) -> None:
    """Run the study."""
    torch.set_num_threads(1)
    budget = {**BUDGET, "steps": 2, "batch_size": 8} if args.smoke else BUDGET
    methods = {name: METHODS[name] for name in (args.methods if not args.smoke else ("RL", "ESD"))}
    how, accuracy = setting(args.root, args.out / "models", args.smoke, methods=methods, budget=budget)
    found = measured(how, args.seeds[:1] if args.smoke else args.seeds, TURNS, args.references, args.out)
    rows = [row for one in found.values() for row in one]
    text = "\n\n".join(f"### {name}\n\n{one}" for name, one in by_turn(rows).items())
    write_results(args.out, {"judge": accuracy, "rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
