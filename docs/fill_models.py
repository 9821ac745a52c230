"""Runs all kinds of models and writes the table of docs/models.md: `python -m docs.fill_models`."""

from pathlib import Path

from docs.fill_tables import filled
from tests.model_kinds import CELLS, FORGET, KINDS, run

MODELS = Path(__file__).parent / "models.md"
#: What a refusal says, and its number in the table.
REASONS = (
    ("no label whose likelihood", "edges have no label there, so there is nothing to make less likely"),
    ("Expected a task among", "the method knows other tasks"),
    ("MessagePassing layers", "it attaches to PyG's layers, and there is none"),
    ("to return a tensor", "it reads what a layer returns, and that is a dictionary"),
    ("two graphs side by side", "it holds a row per node of one graph; pass `message_graph='full'`"),
    ("[45, channels]", "it reads what a layer returns, and that is of one type of nodes"),
)


def filled_table() -> str:
    """The text of docs/models.md with a fresh table."""
    head = [f"{cell} {forget}" for cell in CELLS for forget in FORGET]
    lines = [f"| model | {' | '.join(head)} |", "| --- |" + " :-: |" * len(head)]
    others: list[str] = []
    for kind in KINDS:
        cells = [_mark(run(kind, forget, cell), others) for cell in CELLS for forget in FORGET]
        lines.append(f"| {kind.name} | {' | '.join(cells)} |")
    notes = [f"{number}. {why}" for number, (_, why) in enumerate(REASONS, 1)]
    notes += [f"{len(REASONS) + number}. {said}" for number, said in enumerate(others, 1)]
    return filled(MODELS.read_text(), {"models": "\n".join([*lines, "", "Refused, and why:", "", *notes])})


def _mark(said: str, others: list[str]) -> str:
    if said == "yes":
        return "✓"
    for number, (words, _) in enumerate(REASONS, 1):
        if words in said:
            return f"{number}"
    if said not in others:
        others.append(said)
    return f"{len(REASONS) + others.index(said) + 1}"


if __name__ == "__main__":
    MODELS.write_text(filled_table())
