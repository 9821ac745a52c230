"""SCRUB's three applications, its directions and presets, and IMU, on handwritten digits; see README.md.

python -m experiments.digits_scrub --out runs/digits_scrub [--smoke] [--seeds 0 1 2] [--parts class confusion]
"""

from collections.abc import Iterator
from dataclasses import dataclass

import tyro

from experiments.common import StudyArgs, resumed, write_results
from experiments.digits_scrub.ascent import convergence, direction, stall
from experiments.digits_scrub.compared import compared
from experiments.digits_scrub.matched import imu
from experiments.digits_scrub.runs import Run
from experiments.digits_scrub.shadows import lira
from experiments.digits_scrub.tables import tables

RUNS = {"convergence": convergence, "lira": lira, "direction": direction, "stall": stall, "imu": imu}
PARTS = ("class", "confusion", "privacy", *RUNS)
#: Seeds of a part, where nobody names some.
SEEDS = {part: range(6 if part == "imu" else 3) for part in PARTS}


@dataclass
class Args(StudyArgs):
    """What to run; a killed run goes on where it stopped.

    Attributes:
        seeds: of the split, the training and the run; by default three, six for `imu`.
        parts: which of the study's parts.
        methods: which rows of a part, by their name; all by default.
    """

    seeds: tuple[int, ...] = ()
    parts: tuple[str, ...] = PARTS
    methods: tuple[str, ...] = ()


def runs(args: Args) -> Iterator[tuple[str, Run]]:
    """Return the runs of the parts, with the beginning of their key."""
    for part in args.parts:
        seeds = args.seeds or SEEDS[part]
        for seed in seeds[:1] if args.smoke else seeds:
            of = RUNS[part](seed, args.smoke) if part in RUNS else compared(part, seed, args.smoke)
            yield from ((f"{part} {seed}", run) for run in of)


def main(args: Args) -> None:
    """Run what is not there yet, and write `results.json` and `tables.md`."""
    chosen = ((f"{start} {name}", run) for start, (name, run) in runs(args) if not args.methods or name in args.methods)
    found = resumed(args.out, chosen)
    text = "\n\n".join(f"<!-- {name} -->\n{table}" for name, table in tables(found).items())
    write_results(args.out, found, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
