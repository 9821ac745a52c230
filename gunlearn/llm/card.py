"""Paragraphs of a model card: the effect on the rows, and how to load the output."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_Figures = Mapping[str, Mapping[str, float]]


def unchanged(before: _Figures, after: _Figures) -> bool:
    """Return whether the forgotten rows show no effect; `False` without their figures.

    No effect: neither exact memorization nor extraction strength fell, and the negative log-likelihood rose by < 1 %.
    """
    if "forget" not in before or "forget" not in after:
        return False
    old, new = before["forget"], after["forget"]
    fell = any(new[name] < old[name] for name in ("exact_memorization", "extraction_strength"))
    return not fell and new["nll"] < old["nll"] * 1.01 + 1e-12


def movement(before: _Figures, after: _Figures) -> list[str]:
    """Return a sentence on how the figures of each part changed, and a line where unlearning had no effect."""
    lines = [
        f"Rows of '{part}': "
        + ", ".join(f"{name} {before[part][name]:.4g} -> {value:.4g}" for name, value in new.items())
        for part, new in after.items()
        if part in before
    ]
    if unchanged(before, after):
        lines.append("**No measurable effect**: the model answers the rows to forget as it did before.")
    return lines


def loading(settings: Mapping[str, Any], folder: str | PurePath | None = None) -> list[str]:
    """Return lines of Python code that load the output of a result's `settings`, by default from the card's folder."""
    where = repr("." if folder is None else PurePath(folder).as_posix())
    if not settings["adapter"]:
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f"model = AutoModelForCausalLM.from_pretrained({where})",
            f"tokenizer = AutoTokenizer.from_pretrained({where})",
        ]
    base = repr(settings["base_model"] or "the model that the adapter was trained on")
    bounded = str(settings["adapter"].get("peft_type")).endswith("BOUNDED")
    return [
        *(["import gunlearn.llm.model.bounded  # first: registers this kind of adapter"] if bounded else []),
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {where})",
    ]
