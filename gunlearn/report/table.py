"""The comparison as a table: plain text, markdown, terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gunlearn.report.summary import LOSS, Line, Row, Stat, summarise

if TYPE_CHECKING:
    from rich.table import Table

ABSENT = "-"
MARK, FAILS = "*", "!"
BEHIND = "no closer to retraining on what was forgotten (JS forget) than utu, which only takes it out of the graph."
FAILED = f"fails: more than {LOSS:g} below retraining in utility (AUC retain, or accuracy on test items)."
LEGEND = (
    "AUC retain: test edges against non-edges. AUC forget: retained against forgotten edges. Accuracy: of test nodes, "
    "and of forgotten ones as the original graph shows them. MIA AUC: how well the model's scores tell forgotten items "
    "from test items that it never saw. Of all these an honest deletion has the value of the row 'retrain', not more "
    "and not less. JS: mean Jensen-Shannon divergence to retrained models in nats per "
    "item, and in multiples of its noise floor (the divergence between two retrainings, so that the row 'retrain' is "
    "at 1 by definition). Seconds are the method's own, without the training of the model; memory is the peak of the "
    "whole process while the method ran, model, data and libraries included."
)


def _auc(s: Stat) -> str:
    return _with_std(s, lambda v: f"{v:.3f}")


def _js(s: Stat) -> str:
    if s.std == 0:  # the distance between two, seen from both sides
        s = Stat(s.mean, None, s.n)
    return _with_std(s, lambda v: f"{v:.4f}" if s.mean >= 5e-4 else f"{v:.1e}")


def _seconds(s: Stat) -> str:
    return _with_std(s, lambda v: f"{v:.0f}" if s.mean >= 100 else f"{v:.1f}" if s.mean >= 1 else f"{v:.2g}")


def _mib(s: Stat) -> str:
    return f"{s.mean:.0f}"


def _with_std(s: Stat, text: Callable[[float], str]) -> str:
    return text(s.mean) if s.std is None else f"{text(s.mean)} ± {text(s.std)}"


#: Heading, field, format of each column of figures; those of one task alone are left out of tables of others.
COLUMNS: tuple[tuple[str, str, Callable[[Stat], str]], ...] = (
    ("AUC retain", "retain_auc", _auc),
    ("AUC forget", "forget_auc", _auc),
    ("acc. test", "test_acc", _auc),
    ("acc. forget", "forget_acc", _auc),
    ("MIA AUC", "mia_auc", _auc),
    ("JS forget", "js_forget", _js),
    ("JS test", "js_test", _js),
    ("JS retain", "js_retain", _js),
    ("seconds", "seconds", _seconds),
    ("peak MiB", "peak_memory_mb", _mib),
)


#: Columns that link prediction alone, or classification alone, has.
_OF_LINKS, _OF_CLASSES = ("retain_auc", "forget_auc"), ("test_acc", "forget_acc", "mia_auc")


def columns(lines: Sequence[Line]) -> list[tuple[str, str, Callable[[Stat], str]]]:
    """The columns that a table of these lines has."""
    classes = [line.task not in (None, "link_prediction") for line in lines]
    left_out = (_OF_LINKS if classes and all(classes) else ()) + (_OF_CLASSES if not any(classes) else ())
    return [column for column in COLUMNS if column[1] not in left_out]


def headings(lines: Sequence[Line]) -> list[str]:
    """Column headings; the data set and the number of seeds where they differ from line to line."""
    named = ["data set"] if len({line.dataset for line in lines}) > 1 else []
    return [*named, "method", "mode", "runs", *(heading for heading, _, _ in columns(lines))]


def cells(line: Line, with_dataset: bool, floor_on: str = " ", among: Sequence[Line] | None = None) -> list[str]:
    """The texts of one line.

    Args:
        line: what to show.
        with_dataset: start with the name of the data set.
        floor_on: what stands between a distance and its multiple of the noise floor.
        among: all lines of the table, which decide on its columns.
    """
    runs = str(len(line.rows)) if not line.failed else f"{len(line.rows)} of {len(line.rows) + line.failed}"
    out = [str(line.dataset or ABSENT)] if with_dataset else []
    marks = "".join(mark for mark, there in ((MARK, line.behind_utu), (FAILS, line.fails)) if there)
    out += [f"{line.method} {marks}".rstrip(), line.mode, runs]
    for _, name, text in columns([line] if among is None else among):
        value = line.stat(name)
        cell = ABSENT if value is None else text(value)
        floors = line.floors(name) if name.startswith("js_") else None
        out.append(cell if floors is None else f"{cell}{floor_on}({floors:.1f}x floor)")
    return out


def footnotes(lines: Sequence[Line]) -> list[str]:
    """Notes below a table."""
    notes = [f"{MARK} {BEHIND}"] if any(line.behind_utu for line in lines) else []
    notes += [f"{FAILS} {FAILED}"] if any(line.fails for line in lines) else []
    return notes + [f"{line.method} ({line.mode}) failed: {error}" for line in lines for error in line.errors]


def _texts(lines: Sequence[Line], floor_on: str = " ") -> tuple[list[str], list[list[str]]]:
    head = headings(lines)
    return head, [cells(line, head[0] == "data set", floor_on, lines) for line in lines]


def text_table(rows: Sequence[Row]) -> str:
    """Plain text: mean ± standard deviation over seeds, one line per method and mode."""
    lines = summarise(rows)
    head, body = _texts(lines)
    widths = [max(len(row[k]) for row in (head, *body)) for k in range(len(head))]
    left = head.index("mode")
    just = [str.ljust if k <= left else str.rjust for k in range(len(head))]
    text = [
        "  ".join(align(cell, width) for align, cell, width in zip(just, row, widths, strict=True))
        for row in (head, ["-" * width for width in widths], *body)
    ]
    return "\n".join([*(line.rstrip() for line in text), *footnotes(lines)])


def markdown_table(rows: Sequence[Row]) -> str:
    """The same in markdown, for READMEs."""
    lines = summarise(rows)
    head, body = _texts(lines)
    left = head.index("mode")
    rule = ["---" if k <= left else "---:" for k in range(len(head))]
    text = markdown_lines(head, body, rule)
    return "\n".join(text) + "".join(f"\n\n{markdown_escape(note)}" for note in footnotes(lines))


def markdown_lines(head: Sequence[str], body: Sequence[Sequence[str]], rule: Sequence[str]) -> list[str]:
    """A markdown table; cells are escaped."""
    texts = [[markdown_escape(cell) for cell in row] for row in (head, *body)]
    return ["| " + " | ".join(row) + " |" for row in (texts[0], rule, *texts[1:])]


def markdown_escape(text: str) -> str:
    """Text that markdown shows as it is; links `[text](address)` and code stay."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")


def rich_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """The same for the terminal; nothing is picked out as the best."""
    from rich.table import Table
    from rich.text import Text

    lines = summarise(rows)
    head, body = _texts(lines, floor_on="\n")
    notes = "\n".join(footnotes(lines))
    table = Table(title=None if title is None else Text(title), caption=Text(notes, justify="left") if notes else None)
    for heading in head:
        text = heading in ("data set", "method", "mode")
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    return table
