"""Figures: numbers that are measured of a model, with their texts for tables, legends and plots."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from gunlearn.errors import InvalidInputError, InvalidTypeError
from gunlearn.metrics import EVALUATORS, FIGURES

LINKS = ("link_prediction",)
CLASSES = ("node_classification", "graph_classification", "image_classification")
NUMBERS = ("node_regression", "graph_regression")
YES_OR_NO = ("node_multilabel", "graph_multilabel")
BETTER = ("higher", "lower", "retrained")
#: Other entries of rows, whose names no figure can have.
ENTRIES = (
    "method", "mode", "seed", "num_forget", "request_hash", "versions", "task", "dataset", "options", "error", "curve",
    "hist_forget", "unchanged", "suspicious", "untrained", "forget", "references", "date",
)  # fmt: skip


class Figure(ABC):
    """A number that is measured of a model.

    Attributes:
        name: key in rows.
        heading: of its column in tables; empty for a figure without a column.
        legend: one sentence that explains it; by default the first line of the class's docstring.
        tasks: names of its tasks; empty for all that `gunlearn.evaluate` takes.
        better: `"higher"`, `"lower"`, or `"retrained"`: the nearer to the value of a retrained model the better.
        format: format specification of its numbers.
        words: name on the axes of plots; the heading by default.
        floor: name of the figure that holds its noise floor, if it has one.
        hidden: tasks that have the figure but no column of it.
        of_run: whether it reads the record of the run (`view.result`) instead of the model.
        optional: whether it is measured only where `metrics` names it, as those that train models are.

    Example:
        >>> from gunlearn.metrics import Figure
        >>> class Certainty(Figure):
        ...     "Mean probability of test items' likeliest class."
        ...     name, heading = "certainty", "certainty"
        ...     def compute(self, view):
        ...         probability = view.probability("test")
        ...         return None if probability is None else float(probability.amax(-1).mean())
    """

    name: str = ""
    heading: str = ""
    legend: str = ""
    tasks: tuple[str, ...] = ()
    better: str = "retrained"
    format: str = ".3f"
    words: str = ""
    floor: str = ""
    hidden: tuple[str, ...] = ()
    of_run: bool = False
    optional: bool = False

    def __init_subclass__(cls) -> None:
        if "legend" not in vars(cls) and cls.__doc__:
            cls.legend = cls.__doc__.partition("\n")[0]

    @classmethod
    def check_registered(cls) -> None:
        """Refuse a class of another package that `gunlearn.evaluate` could not use."""
        cls().check_texts()

    def check_texts(self) -> None:
        """Raise `InvalidInputError` for a figure that tables could not show."""
        if not self.name or not self.legend or self.better not in BETTER:
            raise InvalidInputError(
                f"Expected a figure with a 'name', a 'legend' and 'better' among {BETTER} "
                f"(got {type(self).__name__} with {self.name!r}, {self.legend!r} and {self.better!r})"
            )
        if self.name in ENTRIES:
            raise InvalidInputError(f"Expected a name that nothing else in a row has (got '{self.name}')")

    @abstractmethod
    def compute(self, view: Any) -> float | None:
        """Return the figure of a `ModelView`, or of a `TextView` for texts; `None` where it is not defined."""

    def spec(self, mean: float) -> str:
        """Return the format specification of numbers around `mean`."""
        return self.format

    def cell(self, mean: float, std: float | None) -> str:
        """Return the text of a mean over runs and its standard deviation; `std` is `None` for one run."""
        spec = self.spec(mean)
        return f"{mean:{spec}}" + ("" if std is None else f" ± {std:{spec}}")

    def is_column(self, tasks: Iterable[str]) -> bool:
        """Return whether a table of these tasks has a column of the figure."""
        return bool(self.heading) and any((not self.tasks or t in self.tasks) and t not in self.hidden for t in tasks)


def as_list(metrics: str | Figure | Iterable[str | Figure]) -> list[str | Figure]:
    """Return one figure, or several, as a list."""
    return [metrics] if isinstance(metrics, str | Figure) else list(metrics)


def figures_of(task: str, metrics: str | Figure | Iterable[str | Figure] = ()) -> dict[str, Figure]:
    """Return the registered figures of a task, without optional ones that are not named, and the caller's own.

    Args:
        task: name of the task.
        metrics: the caller's own `Figure` objects, or names of registered figures; one of them, or several.

    Raises:
        InvalidTypeError: neither figures nor names.
        InvalidInputError: an unknown or taken name, a figure of other tasks, no name, no legend, or a bad `better`.
    """
    everywhere = task in EVALUATORS
    asked = as_list(metrics)
    known = {n: cls for n, cls in FIGURES.items() if (task in cls.tasks if cls.tasks else everywhere)}
    found = {n: cls() for n, cls in known.items() if not cls.optional or n in asked}
    for figure in asked:
        if not isinstance(figure, str | Figure):
            got = f"the class {figure.__name__}" if isinstance(figure, type) else type(figure).__name__
            raise InvalidTypeError(f"Expected Figure objects or names in 'metrics' (got {got})")
        name, tasks = (figure, FIGURES.find(figure).tasks) if isinstance(figure, str) else (figure.name, figure.tasks)
        if tasks and task not in tasks:
            raise InvalidInputError(f"Expected figures of '{task}' in 'metrics' (got '{name}', of {', '.join(tasks)})")
        if isinstance(figure, str):
            continue
        figure.check_texts()
        if name in found:
            raise InvalidInputError(f"Expected a name that nothing else in a row has (got '{name}')")
        found[name] = figure
    return found
