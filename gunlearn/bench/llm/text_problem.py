"""What methods are compared on: a model, rows to forget and to retain, and models that never saw the forgotten rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gunlearn.core.digest import content_hash
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import Rows

#: Fewest rows of a set that is halved: a mean and its interval need two.
FEWEST_ROWS = 4


@dataclass(frozen=True, eq=False)
class TextProblem:
    """Rows, and functions that load models, so that few are in memory at a time.

    Args:
        original: loads the model before unlearning, each time anew.
        tokenizer: of all models.
        forget: rows to forget, with `input_ids` and `labels`.
        retain: rows that methods may read to keep the rest.
        asked: retained rows that are measured.
        references: functions that load models trained without the forgotten rows; without any there is no gain.
        holdout: rows like the forgotten ones that no model has seen, for membership inference.
        utility: further sets of TOFU's model utility, measured at the end of each run.
        alternative: other answers to the forgotten questions, for methods that teach them.
        training: further `TrainingArguments` of runs.
        identity: tells models apart whose rows are the same; by default digests of their weights, for which each call
            of a bench loads all of them.
        reference_names: what errors call the references; by default `"retrained 0"`, ...

    Raises:
        InvalidInputError: fewer than four rows of a set that is halved, or another number of names than of references.
    """

    original: Callable[[], nn.Module]
    tokenizer: Any
    forget: Rows
    retain: Rows
    asked: Rows
    references: Sequence[Callable[[], nn.Module]] = ()
    holdout: Rows = ()
    utility: Mapping[str, Rows] = field(default_factory=dict)
    alternative: Rows | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    reference_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.reference_names and len(self.reference_names) != len(self.references):
            raise InvalidInputError(
                f"Expected a name for each of {len(self.references)} references (got {list(self.reference_names)})"
            )
        sets = {"forget": self.forget, "retain": self.asked} | ({"holdout": self.holdout} if self.holdout else {})
        for name, rows in sets.items():
            if len(rows) < FEWEST_ROWS:
                raise InvalidInputError(
                    f"Expected at least {FEWEST_ROWS} rows of '{name}' to measure: settings are chosen on one half and "
                    f"reported on the other (got {len(rows)})"
                )

    def told(self) -> str:
        """Return a digest of the rows with all they hold, of `training` (but for the device) and of `identity`."""
        sets = {"forget": self.forget, "retain": self.retain, "asked": self.asked, "holdout": self.holdout}
        sets |= dict(self.utility) | {"alternative": self.alternative or ()}
        training = {name: value for name, value in sorted(self.training.items()) if name != "use_cpu"}
        return content_hash([{name: list(map(_plain, rows)) for name, rows in sets.items()}, training, self.identity])


def _plain(value: Any) -> Any:
    """Return a row with what it holds (labels, rows of further answers), whatever kinds of sequences those are."""
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value)}
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(map(_plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
