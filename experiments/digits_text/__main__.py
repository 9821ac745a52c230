"""Erasing a word from a text-to-image pipeline without training; see README.md in this folder.

python -m experiments.digits_text --out runs/digits_text [--smoke] [--words 3 7 1]
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import tyro

import gunlearn as gu
from experiments.common import StudyArgs, markdown, write_results
from experiments.digits_diffusion.model import judge
from experiments.digits_diffusion.text_pipeline import (
    CAPTIONS,
    STEPS,
    WORDS,
    accuracy,
    denoising,
    drawn,
    embeddings,
    trained_pipeline,
)
from gunlearn.diffusion import text_columns

#: Label, method, the anchor's text, and options of `text_columns` and of the method.
ROWS: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
    ("uce", "uce", "", {}, {}),
    ("uce, towards 'digit'", "uce", "digit", {}, {}),
    ("uce, towards 'eight'", "uce", "eight", {}, {}),
    ("uce, nothing preserved", "uce", "", {"preserve": ()}, {}),
    ("uce:paper", "uce", "", {"positions": "last", "templates": ("{}",)}, {}),
    ("mace_refinement", "mace_refinement", "digit", {"positions": "others"}, {}),
]
ASKED = "a photo of a {}"


@dataclass
class Args(StudyArgs):
    """What to run; `words` are the digits whose word is erased, each in a run of its own."""

    words: tuple[int, ...] = field(default=(3, 7, 1))
    per_word: int = 16
    steps: int = STEPS


@cache
def drawn_for(pipeline: Any, anchor: str, count: int) -> torch.Tensor:
    """How often each digit is drawn for an anchor, before unlearning: what erasing can reach."""
    prompt = ASKED.format(anchor) if anchor else ""
    found = judge()[0](drawn(pipeline, [prompt] * count, seed=1)).argmax(1)
    return torch.bincount(found, minlength=len(WORDS)) / count


def cell(pipeline: Any, word: int, row: Sequence[Any], before: torch.Tensor, per_word: int) -> dict[str, Any]:
    """One method and one word: how often is it drawn still, and how often the others."""
    label, method, anchor, columns, options = row
    others = [w for k, w in enumerate(WORDS) if k != word]
    how = {"preserve": others, "templates": CAPTIONS, **columns}
    found = text_columns(pipeline, [WORDS[word]], anchor, **how)
    data = torch.zeros(len(WORDS), 1, 8, 8), embeddings(pipeline, list(WORDS))
    task = denoising(pipeline)
    result = gu.unlearn(pipeline.unet, data, gu.ForgetItems([word]), method, task, columns=found, **options)
    edited = copy.copy(pipeline)
    edited.unet = result.model
    after = accuracy(edited, ASKED, per_word)
    kept = [k for k in range(len(WORDS)) if k != word]
    return {
        "row": label, "word": WORDS[word], "erased": 1 - float(after[word]), "others": float(after[kept].mean()),
        "worst": float((before - after)[kept].max()), "before": float(before[kept].mean()), "seconds": result.seconds,
        "anchor": 1 - float(drawn_for(pipeline, anchor, 4 * per_word)[word]), "left": result.notes["left"],
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over words; the change of the others also at its largest."""
    body = []
    for label in dict.fromkeys(row["row"] for row in rows):
        here = [row for row in rows if row["row"] == label]
        n = len(here)
        erased, least = sum(r["erased"] for r in here) / n, min(r["erased"] for r in here)
        change = [r["others"] - r["before"] for r in here]
        most = sum(r["anchor"] for r in here) / n
        line = [f"{erased:.3f}", f"{least:.3f}", f"{most:.3f}", f"{sum(change) / n:+.3f}", f"{min(change):+.3f}"]
        seconds = sum(r["seconds"] for r in here) / n
        body.append([label, *line, f"{max(r['worst'] for r in here):.3f}", f"{seconds:.2f}"])
    head = [
        "method",
        "erased",
        "least",
        "of the anchor",
        "others, change",
        "lowest",
        "worst word, loss",
        "seconds",
    ]
    return markdown(head, body)


def main(args: Args) -> None:
    """Run the study."""
    words, rows, per_word, steps = args.words, ROWS, args.per_word, args.steps
    if args.smoke:
        words, rows, per_word, steps = (3,), ROWS[:1], 2, 20
    pipeline = trained_pipeline(steps=steps)
    before = accuracy(pipeline, ASKED, per_word)
    untouched = f"Before: {float(before.mean()):.3f} of pictures are the digit asked for; the judge is right on " \
        f"{judge()[1]:.3f} of held-out digits."  # fmt: skip
    print(untouched, flush=True)
    found = []
    for row in rows:
        for word in words:
            found.append(cell(pipeline, word, row, before, per_word))
            print(found[-1], flush=True)
    text = f"{untouched}\n\n{table(found)}"
    write_results(args.out, {"before": before.tolist(), "rows": found}, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Args))
