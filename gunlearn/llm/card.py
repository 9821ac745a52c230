"""Paragraphs of a model card: what became of the forgotten rows, and how to load the output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

Figures = Mapping[str, Mapping[str, float]]
#: The least rise of the negative log-likelihood that counts as an effect.
LEAST = 0.01


def unchanged(before: Figures, after: Figures) -> bool:
    """Whether a model says of the forgotten rows what it said before.

    So it is where neither exact memorization nor extraction strength fell, and the negative log-likelihood rose by less
    than 1 %. Without figures nothing is known, and the answer is no.
    """
    if "forget" not in before or "forget" not in after:
        return False
    old, new = before["forget"], after["forget"]
    fell = any(new[name] < old[name] for name in ("exact_memorization", "extraction_strength"))
    return not fell and new["nll"] < old["nll"] * (1 + LEAST) + 1e-12


def movement(before: Figures, after: Figures) -> list[str]:
    """A sentence on each part, how its figures moved, and a line where those of the forgotten rows did not."""
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
    """Python code that loads the output.

    Args:
        settings: of a result.
        folder: where the output is; without one, the folder of the card is meant.
    """
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
        *(["import gunlearn.llm.model.bounded  # first: peft learns of this kind of adapter"] if bounded else []),
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {where})",
    ]
