"""Runs that end in a model that knows less of what it should keep than a guess."""

import math
import warnings
from dataclasses import dataclass

from gunlearn.errors import DivergenceError
from gunlearn.losses import Prediction

#: Collapsed is a mean loss of more than so many times that of a guess and of the model before; ...
TIMES = 10.0
#: ... or, with the accuracy of chance (numbers have none), of at least the first share of a guess's where it was below
#: the second before.
GUESSES, KNEW = 0.99, 0.5
#: Refused is a mean loss beyond the first number of nats, where it was below the second or that of a guess.
ABSURD, SOUND = 100.0, 10.0
#: Where a task names how many times the loss may be, a loss below the first share of a guess's is no matter, and one
#: above a guess's is a collapse where the model before was below the second.
SMALL, CLEARLY = 0.05, 0.9


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of retained items.

    Args:
        loss: mean negative log-likelihood, in nats.
        guess: that of a guess: every outcome is as likely, or every number the mean.
        accuracy: share of items whose own outcome is the likeliest; `None` for numbers.
        chance: share that a guess finds.
    """

    loss: float
    guess: float
    accuracy: float | None = None
    chance: float = 0.0

    @classmethod
    def of(cls, prediction: Prediction, guess: float) -> "Knowledge":
        """Return what predictions show; see `Task.guess`."""
        every = slice(None) if prediction.mask is None else prediction.mask
        log_prob, logits = prediction.log_prob[every].double(), prediction.logits
        loss = float(-log_prob.mean())
        if logits is None or prediction.gaussian:
            return cls(loss, guess)
        binary = logits.shape == prediction.log_prob.shape
        best = -math.log(2) if binary else logits[every].double().log_softmax(-1).amax(-1) - 1e-6
        return cls(loss, guess, float((log_prob >= best).double().mean()), 1 / 2 if binary else 1 / logits.size(-1))


def collapse(
    before: Knowledge,
    after: Knowledge,
    method: str,
    refuse: bool,
    times: float | None = None,
    on: str = "retained items",
) -> str:
    """Warn of a model that collapsed, and return the sentence for its record; an empty one for any other.

    It has a mean loss on retained items of more than `TIMES` that of a guess, or knows as little as one where the model
    before was clearly better.

    Args:
        before: what the model before unlearning knew.
        after: what the result knows.
        method: name of the method.
        refuse: the method reads retained items, so that a loss of more than `ABSURD` is an error.
        times: more than so many times the loss before is a collapse, too, and so is a loss above that of a guess.
        on: the items, in words.

    Raises:
        DivergenceError: see `refuse`.
    """
    far = not after.loss <= TIMES * max(after.guess, before.loss)
    knew = before.loss < KNEW * before.guess
    blind = knew and after.loss > GUESSES * after.guess and _at_chance(before, after)
    if not far and not blind and not (times is not None and _ruined(before, after, times)):
        return ""
    unit = " nats" if times is None else ""  # an error of numbers otherwise
    said = (
        f"the model of '{method}' collapsed: on {on} its mean loss is {after.loss:.3g}{unit}, before "
        f"{before.loss:.3g}, and of a guess {after.guess:.3g}; lower 'lr' or take fewer steps"
    )
    if refuse and not after.loss <= ABSURD and before.loss < max(SOUND, before.guess):
        raise DivergenceError(
            f"Expected a model that still predicts what it should keep (got a run that diverged: {said})"
        )
    warnings.warn(said, UserWarning, stacklevel=4)
    return f"{said[0].upper()}{said[1:]}."


def _ruined(before: Knowledge, after: Knowledge, times: float) -> bool:
    worse = after.loss > max(times * before.loss, SMALL * after.guess)
    return worse or (before.loss < CLEARLY * before.guess and after.loss > after.guess)


def _at_chance(before: Knowledge, after: Knowledge) -> bool:
    if before.accuracy is None or after.accuracy is None:  # numbers: as far off as a guess
        return True
    clearly = before.accuracy > before.chance + 0.3 * (1 - before.chance)
    return clearly and after.accuracy <= 1.05 * after.chance
