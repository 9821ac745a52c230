"""What a result is worth."""

from gunlearn.metrics.link import EdgeProbabilities, LinkEvaluator
from gunlearn.metrics.ranking import forget_separation, separation

__all__ = ["EdgeProbabilities", "LinkEvaluator", "forget_separation", "separation"]
