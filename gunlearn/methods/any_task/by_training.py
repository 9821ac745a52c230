"""Which way of going on with a training is nearest to retraining: the rules of `auto` that read the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from gunlearn.methods.any_task.brief_teacher import can_teach
from gunlearn.methods.any_task.careful_teacher import DoubtedTeacher
from gunlearn.methods.any_task.known_training import KnownTraining
from gunlearn.methods.any_task.replay import passes_beside
from gunlearn.methods.any_task.training_budget import is_trace, share_of, steps_of
from gunlearn.tasks.base import Task
from gunlearn.tasks.items.statistics import moving_norms
from gunlearn.tasks.named import reads_links

_USUAL_BUDGET = 0.33
_TEACHER = {"teacher_share": 0.62, "unseen_weight": 0.01}  # the best of a few on `experiments/nearest`'s flipped labels
_TAUGHT_SHARE = 0.2  # of a training's steps: what a teacher takes to know its data, and the model to learn from it
_FEWEST = 5  # steps, below which a teacher learns nothing
_GO_ON = "continued_training"


def most_of(budget: float | None) -> float:
    """Return the share of retraining's steps that may be spent; `None` names none."""
    return _USUAL_BUDGET if budget is None else budget


class Choice(NamedTuple):
    """The name of a method, its options, and the rule that picked it: the end of a sentence."""

    method: str
    options: dict[str, Any]
    why: str


@dataclass(frozen=True)
class ByTraining:
    """The choice between continued training, with a teacher or without, and replay.

    Args:
        known: of the training.
        words: how `ContinuedTraining` is told of it.
        budget: share of its steps that may be spent; `None` where nobody named one.
        task: the task.
        partition: of the request.
        model: as trained.
    """

    known: KnownTraining
    words: dict[str, Any]
    budget: float | None
    task: Task
    partition: Any
    model: nn.Module

    @property
    def most(self) -> float:
        """The share of the steps that may be spent."""
        return most_of(self.budget)

    def choice(self) -> Choice:
        """Return the choice by whether the training had settled."""
        known, options = self.known, self.words | self._spending()
        if known.source is None:
            return Choice(_GO_ON, options, "it comes nearest to retraining where no state of the training is given")
        if known.grows:
            return self._unsettled(options)
        if known.state is None or known.growth is None:
            source = "optimiser" if known.state is None else "state"
            near = " that tells whether it had settled" if known.state is not None and known.state.moments else ""
            return Choice(_GO_ON, options, f"the {source} of its training is at hand, without a checkpoint{near}")
        return self._settled(options)

    def without_teacher(self, doubted: DoubtedTeacher, choice: Choice) -> tuple[Choice, float]:
        """Return the choice with what a teacher of no use has left of the budget, and the share that it took."""
        known, why = self.known, f"{choice.why}; but {doubted}, so that it was left out"
        taken = doubted.steps / (known.total or doubted.steps)
        rest, state = self.most - taken, known.state
        if state is not None and known.grows:
            moment = state.earliest(rest * state.total - passes_beside(state))
            if moment is not None:
                share = (state.steps - moment.step) / state.total
                return Choice("replay", self.words | {"budget": share}, why), taken
        return Choice(_GO_ON, self.words | {"at_most": rest}, why), taken

    def _settled(self, options: dict[str, Any]) -> Choice:
        why = f"the training had settled: {self._end}"
        if self.budget is None and is_trace(self.task, self.partition, self.known.growth):
            steps = steps_of(None, self.partition, self.known.total, brief=True)
            few = (
                f"of so many items a few more or less hardly move the minimum, so that it spent {steps} steps at most, "
                "all passes counted, and 'budget' allows more"
            )
            return Choice(_GO_ON, self.words, f"{why}; {few}")
        if moving_norms(self.model) and self._may_teach():
            hidden = "but batch normalisation hides from that what was learned by heart, and only a teacher moves it"
            return Choice(_GO_ON, self.words | {"budget": self.most} | _TEACHER, f"{why}, {hidden}")
        return Choice(_GO_ON, options, why)

    def _unsettled(self, options: dict[str, Any]) -> Choice:
        state, why = self.known.state, "the training had not settled"
        if state is None:
            why = f"the last steps that the optimiser remembers say that {why}"
        if self._may_teach():
            heart = f"{why}, so what it learned by heart stays without a teacher: {self._end}"
            return Choice(_GO_ON, self.words | {"budget": _TAUGHT_SHARE} | _TEACHER, heart)
        if state is None or not state.moments:
            return Choice(_GO_ON, options, f"{why}, and it left no checkpoint to go back to: {self._end}")
        share = min(self.most, share_of(self.partition))
        if state.earliest(share * state.total) is None:  # the nearest farther back
            moment = state.latest(self.most * state.total)
            share = 0.0 if moment is None else (state.steps - moment.step) / state.total
        if not share:
            return Choice(_GO_ON, options, f"no checkpoint lies in its last {self.most:.1%}, though {self._end}")
        return Choice("replay", self.words | {"budget": share}, f"{why}: {self._end}")

    @property
    def _end(self) -> str:
        return f"at its end the norm of the weights changed by {self.known.growth:.1%} per training"

    def _spending(self) -> dict[str, Any]:
        """Return the option that bounds what is spent: the usual share, and more while what is forgotten moves."""
        if self.known.total is None:
            return {}
        return {"budget" if self.most < share_of(self.partition) else "at_most": self.most}

    def _may_teach(self) -> bool:
        few = self.known.total is not None and _TAUGHT_SHARE * self.known.total < _FEWEST
        if few or self.most < _TAUGHT_SHARE or reads_links(self.task) or self.partition.forgets == ("edges",):
            return False
        return can_teach(self.task.parts(self.partition, "retain", self.model, ("forget", "retain")), self.model)
