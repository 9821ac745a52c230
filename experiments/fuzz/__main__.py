"""Thousands of calls with wrong and unusual arguments; see README.md in this folder.

python -m experiments.fuzz --out runs/fuzz [--calls 3000] [--smoke]
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from tqdm.auto import tqdm

from experiments.common import StudyArgs, markdown, write_results
from experiments.fuzz.calls import CALLS, quiet


@dataclass
class Args(StudyArgs):
    """What to run.

    Attributes:
        calls: of each function.
        first: number of the first call; each number is one call, the same in every run.
        functions: which of them.
    """

    calls: int = 3000
    first: int = 0
    functions: tuple[str, ...] = tuple(CALLS)


def is_fault(row: dict[str, Any]) -> bool:
    """Whether a call ended as none should."""
    return row["ended"] in ("unclear", "NaN") or bool(row["changed"])


def table(counts: dict[str, dict[str, int]]) -> str:
    """How the calls of each function ended."""
    columns = ("done", "refused", "unclear", "NaN", "changed")
    return markdown(
        ("function", *columns), ([name, *(str(c.get(k, 0)) for k in columns)] for name, c in counts.items())
    )


def main(args: Args) -> None:
    """Run all calls; write the counts, and each fault."""
    torch.set_num_threads(1)
    calls = 60 if args.smoke else args.calls
    counts: dict[str, Counter] = {}
    faults: dict[str, list[dict[str, Any]]] = {}
    with quiet():
        for name in args.functions:
            rows = [CALLS[name](seed) for seed in tqdm(range(args.first, args.first + calls))]
            counts[name] = Counter(row["ended"] for row in rows) + Counter(
                changed=sum(bool(r["changed"]) for r in rows)
            )
            faults[name] = [row for row in rows if is_fault(row)]
    write_results(args.out, {"counts": counts, "faults": faults}, table(counts))
    print(table(counts))
    for name, rows in faults.items():
        kinds = Counter((row["ended"], row["words"][:90], *row["changed"][:2]) for row in rows)
        for kind, number in kinds.most_common():
            print(name, number, *kind)


if __name__ == "__main__":
    main(tyro.cli(Args))
