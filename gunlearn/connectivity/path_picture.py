"""One picture of what lies between two models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunlearn.core.atomic import replace_file
from gunlearn.errors import InvalidInputError

if TYPE_CHECKING:
    from gunlearn.connectivity.path_evaluation import PathEvaluation

# Okabe and Ito's colours for colour-blind readers.
_COLOURS = {"retain": "#0072B2", "forget": "#D55E00", "val": "#56B4E9", "test": "#009E73", "mia": "#CC79A7"}
_WORDS = {"retain": "retained", "forget": "forgotten", "val": "validation", "test": "test", "mia": "attack (AUC)"}
_SHARES = (("forget_acc", "retain_acc", "test_acc", "mia_auc"), ("forget_auc", "retain_auc", "mia_auc"))


def draw_path(evaluation: PathEvaluation, path: str | Path) -> Path:
    """Draw losses above, shares (accuracy, AUC) below, over `t`; dashed lines are retrained models."""
    import matplotlib
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "gunlearn", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.2, 6.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        _lines(above, evaluation, ("loss_retain", "loss_forget", "loss_val", "loss_test"))
        above.set_yscale("symlog", linthresh=0.1)
        above.set_ylim(bottom=0)
        above.set_ylabel("loss (nats)")
        shares = next((names for names in _SHARES if _known(evaluation, names[0])), ())
        _lines(below, evaluation, shares)
        below.set_ylim(-0.03, 1.03)
        below.set_ylabel("AUC" if "retain_auc" in shares else "accuracy")
        below.set_xlabel("t: from the first model (0) to the second (1)")
        _legend(figure, above, below)
        figure.suptitle(evaluation.verdict.replace("; ", "\n").replace("), ", ")\n"), fontsize=9)
        out = Path(path)
        kind = out.suffix.removeprefix(".") or "png"
        known = FigureCanvasBase.get_supported_filetypes()
        if kind not in known:
            raise InvalidInputError(f"Expected a picture's ending among {', '.join(known)} (got '{out.name}')")
        return replace_file(out, partial(_write, figure, kind))


def _write(figure: Any, kind: str, path: Path) -> None:
    with path.open("wb") as file:
        figure.savefig(file, format=kind, dpi=150)


def _known(evaluation: PathEvaluation, name: str) -> bool:
    return any(row.get(name) is not None for row in evaluation.rows)


def _lines(axes: Any, evaluation: PathEvaluation, names: tuple[str, ...]) -> None:
    """Draw figures over t, and those of each retrained model as dashed lines."""
    for name in names:
        if not _known(evaluation, name):
            continue
        part = name.removeprefix("loss_").partition("_")[0]
        values = [float("nan") if value is None else value for value in evaluation.column(name)]
        axes.plot(evaluation.ts, values, color=_COLOURS[part], label=_WORDS[part], marker=".", markersize=4)
        for row in evaluation.references:
            if row.get(name) is not None:
                axes.axhline(row[name], color=_COLOURS[part], linestyle="--", linewidth=0.8, label="retrained models")
    axes.grid(color="#E6E6E6", linewidth=0.7)


def _legend(figure: Any, *panels: Any) -> None:
    """Put one legend for all panels to their right, each entry once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    dashed = found.pop("retrained models", None)
    if dashed is not None:  # at the end
        found["retrained models"] = dashed
    figure.legend(found.values(), found.keys(), loc="outside right upper", fontsize=8, frameon=False)
