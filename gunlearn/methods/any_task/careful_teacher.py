"""Continued training that gives up where its teacher has learned too little."""

from dataclasses import dataclass

from gunlearn.methods.any_task.continued_training import ContinuedTraining


class DoubtedTeacher(Exception):
    """A teacher has learned too little; the model has not changed."""

    def __init__(self, doubt: str, steps: int) -> None:
        super().__init__(doubt)
        self.steps = steps


@dataclass(frozen=True)
class CarefullyTaught(ContinuedTraining):
    """Continued training that ends where its teacher is of no use."""

    def doubted(self, doubt: str, steps: int) -> None:
        raise DoubtedTeacher(doubt, steps)
