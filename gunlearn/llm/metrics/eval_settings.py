"""What an evaluation of one language model measures, and how."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gunlearn.core.checks import check_choice, check_integer, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.end_tokens import END_MODES
from gunlearn.llm.metrics.evaluation import ATTACKS
from gunlearn.llm.metrics.measured_model import OWN
from gunlearn.llm.metrics.stored_answers import KEPT_TOKENS
from gunlearn.metrics.alignment import Sampler

#: Roundings of weights, by what figures under them are called.
ROUNDINGS = ("int8", "nf4")
_OR_NONE = ("gradient_rows", "align_rows", "max_new_tokens")
#: Least value of each whole number.
_LEAST = {"kept": 1, "batch_size": 1, "relearn_rows": 1, "relearn_batch": 1, "relearn_steps": 0}
_LEAST |= dict.fromkeys(_OR_NONE, 1)


@dataclass(frozen=True)
class EvalSettings:
    """Settings of `evaluate_one`.

    Args:
        attacks: membership attacks, among those of `evaluate_language_models`; `"reference"` needs a log of our own.
        align_on: sets of prompts for the alignment, `"forget"` and `"retain"`.
        align_rows: most prompts of each set, evenly spaced; `None` takes all.
        sampler: how to draw answers for the alignment.
        max_new_tokens: length of generated answers, see `evaluate_language_models`.
        kept: likeliest tokens of each step whose probability a log keeps, see `gunlearn.llm.metrics.stored_answers`.
        generate: generate answers for ROUGE and fluency.
        ends: ids that end an answer; by default those of `end_tokens`.
        end: what memorisation and Min-K% do with the token that ends a row, see `token_scores`.
        relearn_steps: steps of the relearning attack; 0 leaves it out.
        relearn_lr: its learning rate.
        relearn_share: share of the forgotten rows that it trains on.
        relearn_rows: most of the other forgotten rows that it measures.
        relearn_batch: rows per step.
        gradient_rows: most rows of each set for the gradient attack, evenly spaced; `None` takes all.
        quantise: roundings of the weights among `ROUNDINGS`, under which the forgotten rows are scored again.
        harness: tasks of lm-eval to run, where it is installed: names, or paths of YAML files of tasks.
        batch_size: rows at a time; answers are drawn four times as many at a time. No figure depends on it.

    Raises:
        InvalidInputError: unknown attacks, sets or roundings, or numbers outside their range.
    """

    attacks: Sequence[str] = ATTACKS
    align_on: Sequence[str] = OWN
    align_rows: int | None = None
    sampler: Sampler = field(default_factory=Sampler)
    max_new_tokens: int | None = None
    kept: int = KEPT_TOKENS
    generate: bool = True
    ends: int | Sequence[int] | None = None
    end: str = "skip"
    relearn_steps: int = 20
    relearn_lr: float = 1e-4
    relearn_share: float = 0.1
    relearn_rows: int = 32
    relearn_batch: int = 2
    gradient_rows: int | None = None
    quantise: Sequence[str] = ("int8",)
    harness: Sequence[str] = ()
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, known in (("attacks", ATTACKS), ("align_on", OWN), ("quantise", ROUNDINGS)):
            unknown = sorted({*getattr(self, name)} - {*known})
            if unknown:
                raise InvalidInputError(f"Expected {name!r} among {known} (got {unknown})")
        check_choice("end", self.end, END_MODES)
        for name, least in _LEAST.items():
            if getattr(self, name) is not None or name not in _OR_NONE:
                check_integer(name, getattr(self, name), minimum=least)
        check_number("relearn_lr", self.relearn_lr, positive=True)
        check_number("relearn_share", self.relearn_share, positive=True)
        if self.relearn_share > 1:
            raise InvalidInputError(f"Expected 'relearn_share' of at most 1 (got {self.relearn_share!r})")

    def recorded(self) -> dict[str, Any]:
        """Return what figures depend on, as plain values."""
        plain = asdict(self)
        plain.pop("batch_size")
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
