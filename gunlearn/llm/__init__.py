"""Unlearning for causal language models of transformers and peft, with the losses that graphs use. Extra: `llm`.

>>> from gunlearn.llm import UnlearnTrainer  # doctest: +SKIP
>>> from gunlearn.losses import NLL, NPO
>>> objective = NPO(beta=0.1) + NLL(on="retain")
>>> trainer = UnlearnTrainer(model, objective, forget_dataset=forget, retain_dataset=retain)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib.util import find_spec

from gunlearn._lazy import lazy
from gunlearn.errors import MissingExtraError

if find_spec("transformers") is None:
    raise MissingExtraError('Expected transformers for gunlearn.llm (not installed); pip install "gunlearn[llm]"')

_HOMES = {
    "gunlearn.llm.instructions": ("Instruction", "fill_templates"),
    "gunlearn.llm.reveal": ("Revealed", "Revealer"),
    "gunlearn.llm.adapter_fit": ("ReleaseOptions",),
    "gunlearn.llm.release": ("ReleaseResult", "ReleaseRound", "reveal_and_release"),
    "gunlearn.llm.api": ("unlearn",),
    "gunlearn.llm.bandit": ("NeuralUCB",),
    "gunlearn.llm.arithmetic": ("adapter_delta", "add_delta", "negate_adapter"),
    "gunlearn.llm.bounded": ("BoundedConfig", "adapter_norms"),
    "gunlearn.llm.causal_lm": ("IGNORE", "CausalLM", "TextItems"),
    "gunlearn.llm.collate": ("PartCollator",),
    "gunlearn.llm.data": ("as_rows", "separate"),
    "gunlearn.llm.direct_tokens": ("DTOTrainer", "StopBelow", "dto"),
    "gunlearn.llm.encoding": ("encode",),
    "gunlearn.llm.methods": ("METHODS",),
    "gunlearn.llm.metrics.alignment": ("TextAlignment", "fade_metric", "functional_alignment"),
    "gunlearn.llm.metrics.attacks": ("quantized", "relearn"),
    "gunlearn.llm.metrics.evaluation": ("evaluate",),
    "gunlearn.llm.pairing": ("PairedDataset",),
    "gunlearn.llm.plan": ("LLMMethod", "Plan"),
    "gunlearn.llm.primal_dual": ("PrimalDualCallback",),
    "gunlearn.llm.records": ("read_records", "refused"),
    "gunlearn.llm.result": ("LLMResult",),
    "gunlearn.llm.retain_sets": ("RetainTriples", "nearest_without_shared", "retain_triples"),
    "gunlearn.llm.targets": ("TargetTokens", "target_tokens"),
    "gunlearn.llm.selection": ("select_tokens",),
    "gunlearn.llm.selectors": (
        "ContextDelta",
        "Entropy",
        "GivenMask",
        "NLLScore",
        "ProbeDelta",
        "SuffixDelta",
        "TokenSelector",
    ),
    "gunlearn.llm.tofu": ("answer_rows", "load_tofu", "tofu_refusals"),
    "gunlearn.llm.trainer": ("UnlearnTrainer",),
    "gunlearn.llm.until": ("UntilUnseen",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
