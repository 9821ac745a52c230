"""The score that a forgotten edge would get if the model had never seen it."""

from __future__ import annotations

from gunlearn.methods.base import Problem


class UnseenTarget:
    """Placeholder."""

    def __init__(self, problem: Problem) -> None:
        """Nothing yet."""

    def release(self, predictions: dict) -> dict:
        """Nothing yet."""
        return predictions

    def reached(self) -> bool:
        """Nothing yet."""
        return False
