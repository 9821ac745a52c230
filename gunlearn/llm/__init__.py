"""Unlearning for causal language models of transformers and peft, with the losses that graphs use. Extra: `llm`.

>>> from gunlearn.llm import UnlearnTrainer  # doctest: +SKIP
>>> from gunlearn.losses import NLL, NPO
>>> objective = NPO(beta=0.1) + NLL(on="retain")
>>> trainer = UnlearnTrainer(model, objective, forget_dataset=forget, retain_dataset=retain)  # doctest: +SKIP
"""

from importlib.util import find_spec

from gunlearn.core.lazy import lazy
from gunlearn.errors import MissingExtraError

_MISSING = [name for name in ("transformers", "peft", "accelerate") if find_spec(name) is None]
if _MISSING:
    raise MissingExtraError(
        f'Expected {", ".join(_MISSING)} for gunlearn.llm (not installed); pip install "gunlearn[llm]"'
    )

_HOMES = {
    "gunlearn.llm.data.collate": ["PartCollator"],
    "gunlearn.llm.data.encoding": ["encode"],
    "gunlearn.llm.data.marking": ["select_tokens"],
    "gunlearn.llm.data.pairing": ["PairedDataset"],
    "gunlearn.llm.data.records": ["read_records", "refused"],
    "gunlearn.llm.data.retain_sets": ["RetainTriples", "nearest_without_shared", "retain_triples"],
    "gunlearn.llm.data.rows": ["as_rows", "separate"],
    "gunlearn.llm.data.selectors": [
        "ContextDelta",
        "Entropy",
        "GivenMask",
        "NLLScore",
        "ProbeDelta",
        "SuffixDelta",
        "TokenSelector",
    ],
    "gunlearn.llm.data.target_tokens": ["TargetTokens", "target_tokens"],
    "gunlearn.llm.data.text_items": ["IGNORE", "TextItems"],
    "gunlearn.llm.data.tofu": ["answer_rows", "load_tofu", "tofu_refusals"],
    "gunlearn.llm.metrics.attacks": ["quantized", "relearn"],
    "gunlearn.llm.metrics.evaluation": ["evaluate_language_models"],
    "gunlearn.llm.metrics.text_alignment": ["TextAlignment", "fade_metric", "functional_alignment"],
    "gunlearn.llm.model.arithmetic": ["adapter_delta", "add_delta", "negate_adapter", "scale_adapter"],
    "gunlearn.llm.model.bounded": ["BoundedConfig", "adapter_norms"],
    "gunlearn.llm.model.gguf_file": ["plain_folder"],
    "gunlearn.llm.recipes.bandit": ["NeuralUCB"],
    "gunlearn.llm.recipes.direct_tokens": ["DTOTrainer", "dto"],
    "gunlearn.llm.recipes.influence_ascent": ["InfluenceAscent"],
    "gunlearn.llm.recipes.methods": ["TokenMethod"],
    "gunlearn.llm.recipes.plan": ["Plan"],
    "gunlearn.llm.recipes.release": ["ReleaseResult", "ReleaseRound", "reveal_and_release"],
    "gunlearn.llm.recipes.reveal": ["Instruction", "Revealed", "Revealer", "fill_templates"],
    "gunlearn.llm.record": ["LLMResult"],
    "gunlearn.llm.training.adapter_fit": ["ReleaseOptions"],
    "gunlearn.llm.training.backend": ["TrainerBackend"],
    "gunlearn.llm.training.callback_adapter": ["as_trainer_callback"],
    "gunlearn.llm.training.causal_lm": ["CausalLM"],
    "gunlearn.llm.training.primal_dual_callback": ["PrimalDualCallback"],
    "gunlearn.llm.training.trainer": ["UnlearnTrainer"],
    "gunlearn.llm.training.until": ["StopBelow", "UntilUnseen"],
    "gunlearn.llm.unlearning": ["unlearn"],
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
