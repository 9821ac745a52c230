"""Comparisons as tables: plain text, markdown, terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gunlearn.metrics import FIGURES
from gunlearn.metrics.base import Figure
from gunlearn.report.summary import LOSS, Line, Row, summarise

ABSENT = "-"
MARK, FAILS = "*", "!"
BEHIND = "no closer to retraining on what was forgotten (JS forget) than utu, which only takes it out of the graph."
FAILED = f"fails: more than {LOSS:g} below retraining in utility (AUC retain, or accuracy on test items)."


def columns(lines: Sequence[Line], figures: Sequence[Figure] = ()) -> list[Figure]:
    """Return the figures that a table of these lines has columns of: registered ones, then the others in `figures`."""
    tasks = {line.task or "link_prediction" for line in lines}
    known = {**{name: cls() for name, cls in FIGURES.items()}, **{figure.name: figure for figure in figures}}
    return [figure for figure in known.values() if figure.is_column(tasks)]


def headings(lines: Sequence[Line], figures: Sequence[Figure] = ()) -> list[str]:
    """Return the column headings; the data set is one where it differs from line to line."""
    named = ["data set"] if len({line.dataset for line in lines}) > 1 else []
    return [*named, "method", "mode", "runs", *(figure.heading for figure in columns(lines, figures))]


def legend(lines: Sequence[Line], figures: Sequence[Figure] = ()) -> str:
    """Return what the columns of figures mean."""
    shown = columns(lines, figures)
    parts = [f"{figure.heading}: {figure.legend.rstrip('.')}." for figure in shown]
    like = [figure.heading for figure in shown if figure.better == "retrained"]
    if like:
        parts.append(f"Of {', '.join(like)} an honest deletion has the value of the row 'retrain', not more, not less.")
    if any(figure.floor for figure in shown):
        parts.append("x floor: multiples of the divergence between two retrainings; the row 'retrain' is at 1.")
    return " ".join(parts)


def cells(line: Line, head: Sequence[str], shown: Sequence[Figure], floor_on: str = " ") -> list[str]:
    """Return the texts of one line.

    Args:
        line: what to show.
        head: column headings.
        shown: figures of the columns.
        floor_on: what stands between a distance and its multiple of the noise floor.
    """
    runs = str(len(line.rows)) if not line.failed else f"{len(line.rows)} of {len(line.rows) + line.failed}"
    out = [str(line.dataset or ABSENT)] if head[0] == "data set" else []
    marks = "".join(mark for mark, there in ((MARK, line.behind_utu), (FAILS, line.fails)) if there)
    out += [f"{line.method} {marks}".rstrip(), line.mode, runs]
    for figure in shown:
        value = line.stat(figure.name)
        cell = ABSENT if value is None else figure.cell(value.mean, value.std)
        floors = line.floors(figure.name, figure.floor) if figure.floor else None
        out.append(cell if floors is None else f"{cell}{floor_on}({floors:.1f}x floor)")
    return out


def footnotes(lines: Sequence[Line]) -> list[str]:
    """Return the notes below a table."""
    notes = [f"{MARK} {BEHIND}"] if any(line.behind_utu for line in lines) else []
    notes += [f"{FAILS} {FAILED}"] if any(line.fails for line in lines) else []
    return notes + [f"{line.method} ({line.mode}) failed: {error}" for line in lines for error in line.errors]


def text_table(rows: Sequence[Row], figures: Sequence[Figure] = ()) -> str:
    """Return plain text: mean ± standard deviation over seeds, one line per method and mode.

    Args:
        rows: of a grid or an evaluation.
        figures: figures that are not registered, but have columns.
    """
    head, body, notes = _table(rows, figures)
    widths = [max(len(row[k]) for row in (head, *body)) for k in range(len(head))]
    left = head.index("mode")
    just = [str.ljust if k <= left else str.rjust for k in range(len(head))]
    text = [
        "  ".join(align(cell, width) for align, cell, width in zip(just, row, widths, strict=True))
        for row in (head, ["-" * width for width in widths], *body)
    ]
    return "\n".join([*(line.rstrip() for line in text), *notes])


def markdown_table(rows: Sequence[Row], figures: Sequence[Figure] = ()) -> str:
    """Return the same in markdown, for READMEs."""
    head, body, notes = _table(rows, figures)
    return markdown_of(head, body, notes, head.index("mode") + 1)


def rich_table(rows: Sequence[Row], title: str | None = None, figures: Sequence[Figure] = ()) -> Table:
    """Return the same for the terminal; nothing is picked out as the best."""
    head, body, notes = _table(rows, figures, floor_on="\n")
    return rich_of(head, body, notes, head.index("mode") + 1, title)


def _table(
    rows: Sequence[Row], figures: Sequence[Figure], floor_on: str = " "
) -> tuple[list[str], list[list[str]], list[str]]:
    lines = summarise(rows)
    head, shown = headings(lines, figures), columns(lines, figures)
    return head, [cells(line, head, shown, floor_on) for line in lines], footnotes(lines)


def markdown_of(head: Sequence[str], body: Sequence[Sequence[str]], notes: Sequence[str] = (), left: int = 0) -> str:
    """Return a markdown table with notes below; the first `left` columns hold text, the others numbers."""
    rule = ["---" if k < (left or len(head)) else "---:" for k in range(len(head))]
    texts = [[markdown_escape(cell) for cell in row] for row in (head, *body)]
    lines = ["| " + " | ".join(row) + " |" for row in (texts[0], rule, *texts[1:])]
    return "\n".join(lines) + "".join(f"\n\n{markdown_escape(note)}" for note in notes)


def markdown_escape(text: str) -> str:
    """Return text that markdown shows as it is; links `[text](address)` and code stay."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")


def rich_of(
    head: Sequence[str], body: Sequence[Sequence[str]], notes: Sequence[str], left: int, title: str | None = None
) -> Table:
    """Return a table for the terminal with notes below; the first `left` columns hold text, the others numbers."""
    caption = Text("\n".join(notes), justify="left") if notes else None
    table = Table(title=None if title is None else Text(title), caption=caption)
    for k, heading in enumerate(head):
        table.add_column(heading, justify="left" if k < left else "right", overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    return table
