"""Alignment of models with retrained ones, its noise floor, and the gain over the untouched model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from gunlearn.core.digest import same_weights
from gunlearn.errors import InvalidInputError
from gunlearn.metrics.alignment import Alignment, StepTerms, Supplier, align, bootstrap, gain_interval


@dataclass(frozen=True, eq=False)
class Standing:
    """A model compared with retrained ones and with the untouched one.

    Args:
        alignments: with each reference.
        value: their mean.
        interval: bootstrap interval of `value` over prompts; `None` with one prompt.
        floor: mean alignment of the references with each other; `None` with one.
        original: mean alignment of the untouched model; `None` without it.
        gain_interval: bootstrap interval of `gain` over prompts, of which both models answer the same; `None` with one
            prompt, or without the untouched model.
    """

    alignments: tuple[Alignment, ...]
    value: float
    interval: tuple[float, float] | None
    floor: float | None
    original: float | None
    gain_interval: tuple[float, float] | None = None

    @classmethod
    def of(
        cls,
        alignments: Sequence[Alignment],
        floor: float | None,
        before: Sequence[Alignment],
        confidence: float | None = 0.95,
        seed: int = 0,
    ) -> "Standing":
        """Return the standing of a model from its alignments with each reference, and those of the untouched one.

        Without `confidence` there are no intervals.
        """
        items, interval, gains = _items(alignments), None, None
        if confidence is not None:
            interval = bootstrap(items, confidence, seed=seed)
            gains = gain_interval(items, _items(before), confidence, seed=seed) if before else None
        original = _mean(before) if before else None
        return cls(tuple(alignments), _mean(alignments), interval, floor, original, gains)

    @property
    def precision(self) -> float:
        """Mean over the references."""
        return _mean(self.alignments, "precision")

    @property
    def recall(self) -> float:
        """Mean over the references."""
        return _mean(self.alignments, "recall")

    @property
    def excess(self) -> float | None:
        """Distance beyond the noise floor."""
        return None if self.floor is None else self.value - self.floor

    @property
    def gain(self) -> float | None:
        """`1 - value / original`; above 0 the model is nearer to the retrained ones than the untouched model is.

        `None` without the untouched model, and where it agrees with the retrained ones or is infinitely far from them.
        """
        if not self.original or math.isinf(self.original):
            return None
        return 1 - self.value / self.original


def check_retrained(references: Sequence[Any], others: Mapping[str, Any]) -> None:
    """Refuse retrained models that are one of `others`, models by what they are called, or have its weights.

    Raises:
        InvalidInputError: one does, bit for bit.
    """
    for reference in references:
        for name, other in others.items():
            if _alike(other, reference):
                raise InvalidInputError(
                    f"Expected models trained without the forgotten data (got {name} among them: its weights are the "
                    "same, bit for bit)"
                )


def standings(
    models: Mapping[str, Any],
    references: Sequence[Any],
    supplier: Supplier,
    original: Any | None = None,
    per: str = "sequence",
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Standing]:
    """Compare models with retrained ones; samples of each model are drawn once.

    Collapsed models have values orders of magnitude larger: plot on a logarithmic scale, do not average over methods.

    Args:
        models: the models to judge, by name. One that is among the references, or has the weights of one, is compared
            with the others.
        references: models retrained without the forgotten data, under different seeds.
        supplier: draws and scores samples.
        original: the model before unlearning.
        per: see `align`.
        confidence: of the intervals.
        seed: of the bootstrap.

    Raises:
        InvalidInputError: no reference (other than the model itself), or two references that agree exactly.
    """
    samples: dict[int, Any] = {}
    found: dict[tuple[int, int], Alignment] = {}

    def terms(p: Any, q: Any) -> StepTerms:
        if id(p) not in samples:
            samples[id(p)] = supplier.draw(p)
        return supplier.terms(samples[id(p)], p, q)

    def aligned(p: Any, q: Any) -> Alignment:
        if (id(p), id(q)) not in found:
            how = supplier.estimator, per, supplier.sampler, confidence, seed
            found[id(p), id(q)] = align(terms(p, q), terms(q, p), *how)
        return found[id(p), id(q)]

    def against(model: Any) -> tuple[Alignment, ...]:
        return tuple(aligned(model, r) for r in references if not _alike(model, r))

    pairs = [aligned(a, b) for a, b in combinations(references, 2)]
    if any(pair.value == 0 for pair in pairs):
        raise InvalidInputError(
            "Expected references that were retrained under different seeds (got two that agree exactly); their "
            "distance would be no noise floor"
        )
    floor = _mean(pairs) if pairs else None
    before = () if original is None else against(original)
    out = {}
    for name, model in models.items():
        alignments = against(model)
        if not alignments:
            raise InvalidInputError(f"Expected a retrained model to compare '{name}' with (got none)")
        out[name] = Standing.of(alignments, floor, before, confidence, seed)
    return out


def named_models(
    models: Mapping[str, nn.Module], references: Sequence[nn.Module], original: nn.Module | None
) -> dict[str, nn.Module]:
    """Return all models by name; those that the caller named keep their names.

    Raises InvalidInputError where one name would stand for two models.
    """
    out = dict(models)
    further = {} if original is None else {"original": original}
    further |= {f"retrained {k}": model for k, model in enumerate(references)}
    for name, model in further.items():
        if not any(model is known for known in out.values()):
            if name in out:
                raise InvalidInputError(f"Expected {name!r} to name one model (got two)")
            out[name] = model
    return out


def _alike(model: Any, reference: Any) -> bool:
    both = isinstance(model, nn.Module) and isinstance(reference, nn.Module)
    return model is reference or (both and same_weights(model, reference))


def _items(alignments: Sequence[Alignment]) -> Tensor:
    """Return the mean over the references of each prompt, `[num_prompts]`."""
    return torch.stack([a.items for a in alignments]).mean(0)


def _mean(alignments: Sequence[Alignment], name: str = "value") -> float:
    return sum(getattr(a, name) for a in alignments) / len(alignments)
