"""Retrained models of a bench that are no evidence: copies of each other, or of the model before unlearning."""

from gunlearn.bench.llm.text_problem import TextProblem
from gunlearn.core.digest import state_hash
from gunlearn.errors import InvalidInputError


def check_references_apart(problem: TextProblem) -> None:
    """Refuse references with the same weights as another one, or as the original model; one is in memory at a time.

    Raises:
        InvalidInputError: two models are the same, bit for bit.
    """
    seen = {state_hash(problem.original()): "the model before unlearning"} if problem.references else {}
    for number, load in enumerate(problem.references):
        name = problem.reference_names[number] if problem.reference_names else f"retrained {number}"
        digest = state_hash(load())
        if digest in seen:
            raise InvalidInputError(
                f"Expected references that were trained apart (got {seen[digest]} and {name}: their weights are the "
                "same, bit for bit)"
            )
        seen[digest] = name
