"""Tables as plain text, markdown, or for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from gunlearn.core.printable import printable
from gunlearn.metrics import FIGURES
from gunlearn.metrics.base import Figure
from gunlearn.report.summary import ENDS, ERRORS, LOSS, Line, Row, summarise

ABSENT = "-"
MARK, FAILS, WITHIN_NOISE, SAME_WEIGHTS, TOO_NEAR, AT_CHANCE = "*", "!", "~", "=", "?", "#"
BEHIND = "no closer to retraining on what was forgotten (JS forget) than utu, which only takes it out of the graph."
NOT_TOLD = f"differs from utu in JS forget by less than {ERRORS:g} standard errors over runs, which noise may decide."
KEPT = "unchanged weights: the model holds all weights of the original one, bit for bit."
NEARER = (
    "suspicious: nearer to the retrained models than one that was retrained without a look at them can be expected."
)
CHANCE = "untrained: on retained items hardly better than new weights; distances to such a model say nothing."
ONE_RUN = "One run of each method: nothing is known of the noise between seeds, by which small differences may turn."
FAILED = f"fails: more than {LOSS:g} below retraining in utility (AUC retain, or accuracy on test items)."


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns.

    Args:
        head: headings of the columns.
        body: the rows.
        left: number of columns with text, from the left; the others hold numbers.
        notes: lines below the table.
    """

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    left: int
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Names and messages of others must not drive a terminal."""
        object.__setattr__(self, "head", [*map(printable, self.head)])
        object.__setattr__(self, "body", [[*map(printable, row)] for row in self.body])
        object.__setattr__(self, "notes", [*map(printable, self.notes)])

    def text(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.body, strict=True)]
        specs = [f"{'<' if k < self.left else '>'}{width}" for k, width in enumerate(widths)]
        rows = [self.head, ["-" * width for width in widths], *self.body]
        lines = ["  ".join(map(format, row, specs)).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes])

    def markdown(self) -> str:
        """Return markdown; links `[text](address)` and code are kept."""
        rule = ["---" if k < self.left else "---:" for k in range(len(self.head))]
        head, *body = ([_escaped(cell) for cell in row] for row in (self.head, *self.body))
        lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]
        return "\n".join(lines) + "".join(f"\n\n{_escaped(note)}" for note in self.notes)

    def terminal(self, title: str | None = None) -> RichTable:
        caption = Text("\n".join(self.notes), justify="left") if self.notes else None
        table = RichTable(title=None if title is None else Text(printable(title)), caption=caption)
        for k, heading in enumerate(self.head):
            table.add_column(heading, justify="left" if k < self.left else "right", overflow="fold")
        for row in self.body:
            table.add_row(*map(Text, row))
        return table


def comparison(lines: Sequence[Line], figures: Sequence[Figure] = (), floor_on: str = " ") -> Table:
    """Return the table of lines; the data set is a column where it differs from line to line.

    `figures` are those that are not registered; `floor_on` separates a distance from its multiple of the noise floor.
    """
    shown = columns(lines, figures)
    named = ["data set"] if len({line.dataset for line in lines}) > 1 else []
    head = [*named, "method", "mode", "runs"]
    body = []
    for line in lines:
        runs = f"{len(line.rows)} of {line.runs}" if line.failed else str(len(line.rows))
        row = [str(line.dataset or ABSENT)] if named else []
        row += [f"{line.method} {marks_of(line)}".rstrip(), line.mode, runs]
        body.append(row + [_cell(line, figure, floor_on) for figure in shown])
    used = {mark for line in lines for mark in marks_of(line)}
    texts = {MARK: BEHIND, WITHIN_NOISE: NOT_TOLD, FAILS: FAILED}
    texts |= {SAME_WEIGHTS: KEPT, TOO_NEAR: NEARER, AT_CHANCE: CHANCE}
    notes = []
    for mark in texts:
        notes += [f"{mark} {texts[mark]}"] if mark in used else []
        field = {SAME_WEIGHTS: "unchanged", TOO_NEAR: "suspicious", AT_CHANCE: "untrained"}.get(mark)
        notes += _grouped(lines, field) if field else []
    judged = [line for line in lines if line.method not in ENDS]
    notes += [ONE_RUN] if judged and all(line.runs == 1 for line in judged) else []
    notes += [f"{line.method} ({line.mode}) failed: {error}" for line in lines for error in line.errors]
    return Table(head + [figure.heading for figure in shown], body, len(head) - 1, notes)


def _grouped(lines: Sequence[Line], field: str) -> list[str]:
    """Return what rows say under `field`, each sentence after the lines that say it."""
    who: dict[str, list[str]] = {}
    for line in lines:
        for said in line.said(field):
            who.setdefault(said, []).append(f"{line.method} ({line.mode})")
    return [f"{', '.join(names)}: {said}" for said, names in who.items()]


def marks_of(line: Line) -> str:
    """Return the marks of a line, `"*!"`."""
    marks = {
        MARK: line.behind_utu,
        WITHIN_NOISE: line.unsure,
        FAILS: line.fails,
        SAME_WEIGHTS: bool(line.said("unchanged")),
        TOO_NEAR: bool(line.said("suspicious")),
        AT_CHANCE: bool(line.said("untrained")),
    }
    return "".join(mark for mark, there in marks.items() if there)


def columns(lines: Sequence[Line], figures: Sequence[Figure] = ()) -> list[Figure]:
    """Return the figures that are columns of a table of these lines: registered ones, then others in `figures`."""
    tasks = {line.task or "link_prediction" for line in lines}
    measured = [cls() for name, cls in FIGURES.items() if not cls.optional or any(line.stat(name) for line in lines)]
    known = {figure.name: figure for figure in [*measured, *figures]}
    return [figure for figure in known.values() if figure.is_column(tasks)]


def legend(shown: Sequence[Figure]) -> str:
    """Return the meaning of each column, in sentences."""
    parts = [f"{figure.heading}: {figure.legend.rstrip('.')}." for figure in shown]
    like = [figure.heading for figure in shown if figure.better == "retrained"]
    if like:
        parts.append(f"Of {', '.join(like)} an honest deletion has the value of the row 'retrain', not more, not less.")
    if any(figure.floor for figure in shown):
        floor = "multiples of the mean divergence between retrainings; the row 'retrain' is at 1"
        parts.append(f"x floor: {floor}. Between two retrainings that is one number, whose own noise is unknown.")
    return " ".join(parts)


def text_table(rows: Sequence[Row], figures: Sequence[Figure] = ()) -> str:
    """Return rows as plain text: mean ± standard deviation over seeds, a line per method and mode; see `comparison`."""
    return comparison(summarise(rows), figures).text()


def markdown_table(rows: Sequence[Row], figures: Sequence[Figure] = ()) -> str:
    """Return the table of `text_table` in markdown."""
    return comparison(summarise(rows), figures).markdown()


def rich_table(rows: Sequence[Row], title: str | None = None, figures: Sequence[Figure] = ()) -> RichTable:
    """Return the table of `text_table` for the terminal."""
    return comparison(summarise(rows), figures, floor_on="\n").terminal(title)


def _cell(line: Line, figure: Figure, floor_on: str) -> str:
    value = line.stat(figure.name)
    cell = ABSENT if value is None else figure.cell(value.mean, value.std)
    floors = line.floors(figure.name, figure.floor) if figure.floor else None
    return cell if floors is None else f"{cell}{floor_on}({floors:.1f}x floor)"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")
