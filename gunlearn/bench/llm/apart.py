"""Retrained models of a bench that are no evidence: copies of each other, or of the model before unlearning."""

from collections.abc import Sequence

from gunlearn.bench.llm.text_problem import TextProblem
from gunlearn.core.digest import state_hash
from gunlearn.errors import InvalidInputError


def weight_digests(problem: TextProblem) -> list[str]:
    """Return digests of the weights of the original model and of the references; one is in memory at a time."""
    return [state_hash(load()) for load in (problem.original, *problem.references)]


def check_references_apart(problem: TextProblem, digests: Sequence[str]) -> None:
    """Refuse references with the same weights as another one, or as the original model.

    Raises:
        InvalidInputError: two models are the same, bit for bit.
    """
    names = list(problem.reference_names) or [f"retrained {number}" for number in range(len(problem.references))]
    seen: dict[str, str] = {}
    for digest, name in zip(digests, ["the model before unlearning", *names], strict=True):
        if digest in seen:
            raise InvalidInputError(
                f"Expected references that were trained apart (got {seen[digest]} and {name}: their weights are the "
                "same, bit for bit)"
            )
        seen[digest] = name
