"""Figures along a path: losses, every figure of the task, barriers, and what retrained models have."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gunlearn.connectivity.barriers import barrier, path_summary
from gunlearn.connectivity.part_losses import PARTS
from gunlearn.connectivity.path_picture import draw_path
from gunlearn.core.atomic import write_file
from gunlearn.core.checks import check_integer
from gunlearn.core.options import did_you_mean
from gunlearn.errors import CheckpointError, InvalidInputError

#: Default number of points; in nats: how large a barrier of connected models may be, and what is no memory any more.
GRID_POINTS, TOLERANCE, BOUND = 31, 0.1, 8.0
_SHOWN = ("forget_acc", "retain_acc", "test_acc", "forget_auc", "retain_auc", "mia_auc")


@dataclass
class PathEvaluation:
    r"""Figures at the points of a path, and its barriers.

    With :math:`L_r` and :math:`L_f` the mean losses of retained and forgotten items, in nats,

    .. math::
        B_r = \max_t \big[L_r(\phi(t)) - ((1-t) L_r(\theta_1) + t L_r(\theta_2))\big], \qquad
        B_f = \max_t \big[((1-t) L_f(\theta_1) + t L_f(\theta_2)) - L_f(\phi(t))\big]

    Two models are connected where neither is above its tolerance. A high loss of forgotten items is an arbitrary
    target: above `bound_forget` nats, where nothing is remembered, :math:`L_f` counts as that bound, and what retrained
    models have stands beside it (`references`).

    Attributes:
        kind: of the path.
        rows: one per point: `t`, `arc` (length of the path so far), `loss_retain`, `loss_forget`, `loss_val`,
            `loss_test` (nats, `None` without items) and figures by name.
        references: the same figures of models that never saw the forgotten items.
        tolerance_retain, tolerance_forget: how large the barriers of connected models may be, in nats.
        bound_forget: where losses of forgotten items stop to count, in nats; `math.inf` nowhere.
        notes: remarks in words.
        own_ends: figures of the two models as they are, where `rows` have other statistics of batch normalisation than
            theirs; else empty. They have no part in the barriers.
    """

    kind: str
    rows: list[dict[str, float | None]]
    references: list[dict[str, float | None]] = field(default_factory=list)
    tolerance_retain: float = TOLERANCE
    tolerance_forget: float = TOLERANCE
    bound_forget: float = BOUND
    notes: dict[str, str] = field(default_factory=dict)
    own_ends: list[dict[str, float | None]] = field(default_factory=list)

    @property
    def ts(self) -> list[float]:
        """Return the points."""
        return [float(row["t"] or 0.0) for row in self.rows]

    def column(self, name: str) -> list[float | None]:
        """Return a figure at all points; InvalidInputError for a name that no row has."""
        self._check_names([name])
        return [row.get(name) for row in self.rows]

    def _check_names(self, names: Iterable[str]) -> None:
        known = list(self.rows[0])
        for name in names:
            if name not in known:
                raise InvalidInputError(
                    f"Expected a figure among {', '.join(known)} (got {name!r}){did_you_mean(name, known)}"
                )

    @property
    def barrier_retain(self) -> float | None:
        r"""Return :math:`B_r` in nats; 0 where the path never rises above the line between its ends."""
        return barrier(self.ts, self.column("loss_retain"))

    @property
    def barrier_forget(self) -> float | None:
        r"""Return :math:`B_f` in nats; `None` where nothing was forgotten."""
        return barrier(self.ts, [None if v is None else -min(v, self.bound_forget) for v in self.column("loss_forget")])

    @property
    def connected(self) -> bool | None:
        """Return whether both barriers are within their tolerances; `None` where neither is known."""
        both = (self.barrier_retain, self.tolerance_retain), (self.barrier_forget, self.tolerance_forget)
        known = [value <= most for value, most in both if value is not None]
        return all(known) if known else None

    @property
    def verdict(self) -> str:
        """Return what was found in a sentence."""
        told = []
        sides = ("retained", self.barrier_retain, self.tolerance_retain), (
            "forgotten", self.barrier_forget, self.tolerance_forget
        )  # fmt: skip
        for which, value, most in sides:
            if value is not None:
                told.append(f"barrier of the {which} items {value:.3g} nats (tolerance {most:g})")
        word = {True: "connected", False: "not connected", None: "unknown"}[self.connected]
        aligned = self.notes.get("alignment", "none").startswith("of ")
        return (
            f"{self.kind} path{', second model aligned' if aligned else ''}: {word}; {', '.join(told) or 'no losses'}"
        )

    def summary(self) -> dict[str, dict[str, float]]:
        """Return by figure its value at both ends, minimum, maximum, mean, and integral weighted by arc length."""
        arc = [float(row["arc"] or 0.0) for row in self.rows]
        names = [name for name in self.rows[0] if name not in ("t", "arc")]
        found = {name: path_summary(self.column(name), arc) for name in names}
        return {name: values for name, values in found.items() if values is not None}

    def table(self, figures: str | Iterable[str] | None = None, every: int = 1) -> str:
        """Return a table of figures (by default losses and accuracies) at every n-th point and the last, as text.

        InvalidInputError for a name that no row has.

        Rows `own 0` and `own 1` are the models at the ends with their own statistics (`own_ends`).
        """
        check_integer("every", every, minimum=1)
        figures = [figures] if isinstance(figures, str) else figures
        names = self._usual() if figures is None else list(figures)
        self._check_names(names)
        head = ["t", *names]
        shown = [row for k, row in enumerate(self.rows) if k % every == 0 or k == len(self.rows) - 1]
        lines = [[_cell(row.get(name)) for name in head] for row in shown]
        lines += [[f"own {k}", *(_cell(row.get(name)) for name in names)] for k, row in enumerate(self.own_ends)]
        lines += [["retrain", *(_cell(row.get(name)) for name in names)] for row in self.references]
        widths = [max(len(line[k]) for line in (head, *lines)) for k in range(len(head))]
        text = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *lines)
        ]
        return "\n".join([*text, self.verdict])

    def _usual(self) -> list[str]:
        told = [f"loss_{part}" for part in PARTS] + list(_SHOWN)
        told += ["forget_prob", "retain_prob"] if not {"forget_acc", "forget_auc"} & self.rows[0].keys() else []
        return [name for name in told if any(row.get(name) is not None for row in self.rows)]

    def integrals(self) -> str:
        """Return the integrals of the table's figures, weighted by arc length, in a line; see `summary`."""
        found = self.summary()
        told = (f"{name} {found[name]['integral']:.4g}" for name in self._usual() if name in found)
        return f"integrals by arc length: {', '.join(told)}"

    def __str__(self) -> str:
        return self.table()

    def plot(self, path: str | Path) -> Path:
        """Write a picture of losses and figures along the path; its format is that of the file's name."""
        return draw_path(self, path)

    def record(self) -> dict[str, Any]:
        """Return everything as plain values, barriers and `summary` included."""
        barriers = {name: getattr(self, name) for name in ("barrier_retain", "barrier_forget", "connected")}
        bound = self.bound_forget if math.isfinite(self.bound_forget) else None
        return {**vars(self), "bound_forget": bound, **barriers, "summary": self.summary()}

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON."""
        return write_file(Path(path), (json.dumps(self.record(), indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> PathEvaluation:
        """Read what `save` wrote; CheckpointError where there is no such file, or `save` did not write it."""
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            saved = {"own_ends": [], **saved} if isinstance(saved, dict) else {}  # files of before have none
            missing = sorted(cls.__dataclass_fields__.keys() - saved.keys())
            if missing:
                raise ValueError(f"no '{missing[0]}' in it")
            saved["bound_forget"] = math.inf if saved["bound_forget"] is None else saved["bound_forget"]
            _check_fields(saved)
            return cls(**{name: saved[name] for name in cls.__dataclass_fields__})
        except OSError as error:
            raise CheckpointError(
                f"Expected a saved evaluation of a path in {path} (got no readable file: {error.strerror})"
            ) from error
        except (ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"Expected a saved evaluation of a path in {path} (got: {error})") from error


def _check_fields(saved: dict[str, Any]) -> None:
    """Raise ValueError where a saved field is of another kind than `save` writes."""
    for name in ("rows", "references", "own_ends"):
        rows = saved[name]
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"'{name}' is no list of rows")
        if wrong := [v for row in rows for v in row.values() if not (v is None or _is_number(v))]:
            raise ValueError(f"'{name}' holds {wrong[0]!r}, which is no number")
    if len(saved["rows"]) < 3 or not all(_is_number(row[name]) for row in saved["rows"] for name in ("t", "arc")):
        raise ValueError("'rows' are no points of a path")
    if wrong := [n for n in ("tolerance_retain", "tolerance_forget", "bound_forget") if not _is_number(saved[n])]:
        raise ValueError(f"'{wrong[0]}' is no number")
    words = [saved["kind"], *saved["notes"].values()] if isinstance(saved["notes"], dict) else [None]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("'kind' or 'notes' are no words")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
