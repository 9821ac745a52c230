"""Losses per item for any model, which compose into objectives.

They depend on torch alone. A loss reads `Prediction` objects (log-likelihoods, logits, embeddings); its formula is in
the docstring of the function of `functional` that it computes.

    >>> from gunlearn.losses import NLL, NPO, TopologicalEntropy
    >>> NPO(beta=5) + 1.0 * NLL(on="retain") + 0.5 * TopologicalEntropy()
    NPO(beta=5) + 1.0 * NLL(on='retain') + 0.5 * TopologicalEntropy()
"""

from gunlearn.losses import functional
from gunlearn.losses.adjusted import IHL, UNDIAL, CrossEntropyUnlearning, FlatLogits
from gunlearn.losses.base import Loss
from gunlearn.losses.influence_weights import influence_weights
from gunlearn.losses.likelihood import NLL, WGA, BoundedAscent, GradientAscent, SatImp, SigmoidNLL
from gunlearn.losses.misdirection import RMU
from gunlearn.losses.objective import Objective, ObjectiveValue, as_objective, weighted
from gunlearn.losses.prediction import Prediction
from gunlearn.losses.preference import DPO, KTO, NPO, SimNPO
from gunlearn.losses.primal_dual import PrimalDual
from gunlearn.losses.reduction import reduce_values
from gunlearn.losses.reference import Distillation, JSDToReference, KLToReference, MSEToReference, TopologicalEntropy
from gunlearn.losses.vocabulary import JSDToRefusal, MaskedVocabulary

__all__ = [
    "DPO",
    "IHL",
    "KTO",
    "LOSSES",
    "NLL",
    "NPO",
    "RMU",
    "UNDIAL",
    "WGA",
    "BoundedAscent",
    "CrossEntropyUnlearning",
    "Distillation",
    "FlatLogits",
    "GradientAscent",
    "JSDToReference",
    "JSDToRefusal",
    "KLToReference",
    "Loss",
    "MSEToReference",
    "MaskedVocabulary",
    "Objective",
    "ObjectiveValue",
    "Prediction",
    "PrimalDual",
    "SatImp",
    "SigmoidNLL",
    "SimNPO",
    "TopologicalEntropy",
    "as_objective",
    "functional",
    "influence_weights",
    "reduce_values",
    "weighted",
]

#: Every public loss by its name.
LOSSES: dict[str, type[Loss]] = {
    value.name: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Loss) and value is not Loss
}
