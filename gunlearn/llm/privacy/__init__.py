"""DP2Unlearning: each request fine-tunes a base trained with differential privacy. Extra: `dp`."""

from gunlearn.core.lazy import lazy

_HOMES = {
    "gunlearn.llm.privacy.dp_base": ("DP2Model", "DPBase", "check_start", "finetune", "unlearn_from_base"),
    "gunlearn.llm.privacy.dp_card": ("DPCard",),
    "gunlearn.llm.privacy.dp_training": ("dp_train",),
}

__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazy(__name__, _HOMES)
