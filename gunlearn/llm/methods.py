"""Unlearning methods for language models by name, with the settings they were published with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from gunlearn.errors import InvalidInputError
from gunlearn.llm.plan import OURS, LLMMethod, Plan
from gunlearn.losses import (
    CEU,
    DPO,
    IHL,
    KTO,
    NPO,
    RMU,
    UNDIAL,
    WGA,
    GradientAscent,
    JSDToRefusal,
    SatImp,
    SimNPO,
)


class _RMU(LLMMethod):
    """Reads hidden states of one layer."""

    def forgetting(self, options: dict[str, Any], model: nn.Module | None, tokenizer: Any, forget: Sequence) -> Plan:
        """The layer is the paper's seventh of 32, or the same share of the model's own."""
        layer = options.pop("layer")
        if layer is None:
            config = getattr(model, "config", None)
            layer = max(1, round(7 / 32 * getattr(config, "num_hidden_layers", 32)))
        return dataclasses.replace(super().forgetting(options, model, tokenizer, forget), layer=layer)


class _DTO(LLMMethod):
    """Marks tokens first, where the rows bring no marks."""

    def loss_options(self) -> dict[str, Any]:
        """Those of `gunlearn.llm.dto` and `select_tokens`."""
        return {"forget_loss": "npo", "lambda_": 1.0, "beta": 0.5, "ratio": 0.2}

    def forgetting(self, options: dict[str, Any], model: nn.Module | None, tokenizer: Any, forget: Sequence) -> Plan:
        """Rows with `target_mask` are taken as they are."""
        from gunlearn.llm.dto import dto
        from gunlearn.llm.selection import select_tokens
        from gunlearn.llm.selectors import ProbeDelta
        from gunlearn.llm.trainer import collator_of

        ratio = options.pop("ratio")
        rows = None
        if model is not None and not all("target_mask" in row for row in forget):
            collator = collator_of(model, tokenizer)
            rows = select_tokens(model, forget, ProbeDelta(), ratio, whole_word=tokenizer, collator=collator)
        return Plan(dto(**options), forget=rows)


#: Every method by its name.
METHODS: dict[str, LLMMethod] = {
    method.name: method
    for method in (
        LLMMethod("ga", "gradient ascent, nothing retained", GradientAscent, retain_weight=0.0),
        LLMMethod("graddiff", "gradient ascent, descent on retained rows", GradientAscent),
        LLMMethod("npo", "negative preference, descent on retained rows", NPO, settings={"beta": 0.1}),
        LLMMethod(
            "npo_kl", "negative preference, held to the model before", NPO, retain_loss="kl", settings={"beta": 0.1}
        ),
        LLMMethod("simnpo", "negative preference by length, without reference", SimNPO, forget_weight=0.125),
        LLMMethod(
            "dpo", "prefers another answer, by default a refusal", DPO, settings={"scale": 2.0}, needs=("alternative",)
        ),
        LLMMethod("kto", "makes forgotten answers undesirable", KTO, source=OURS),
        LLMMethod("wga", "ascent, weighted by how likely tokens are", WGA),
        LLMMethod("satimp", "ascent on half-known tokens", SatImp, forget_weight=0.1),
        LLMMethod("undial", "distils the model without the forgotten token", UNDIAL, retain_weight=0.0, lr=1e-4),
        LLMMethod("ceu", "cross-entropy without the token", CEU, retain_weight=0.0, settings={"skip_first": 1}),
        LLMMethod("ihl", "inverted hinge: the runner-up takes over", IHL, source=OURS),
        LLMMethod(
            "jensun",
            "bounded divergence to a refusal, held to the model before",
            JSDToRefusal,
            retain_loss="kl",
            needs=("alternative",),
            source=OURS,
        ),
        _RMU(
            "rmu",
            "leads hidden states astray, holds those of retained rows",
            RMU,
            retain_loss="hidden",
            settings={"coefficient": 2.0, "layer": None},
        ),
        _DTO("dto", "forgets the telling tokens of an answer, holds the rest", NPO, retain_weight=0.0, source=OURS),
    )
}
METHODS["idkdpo"] = dataclasses.replace(METHODS["dpo"], name="idkdpo", summary="prefers a refusal")


def named_method(name: str) -> LLMMethod:
    """The method of that name.

    Raises:
        InvalidInputError: there is none.
    """
    if name not in METHODS:
        raise InvalidInputError(f"Expected a method among {', '.join(METHODS)} (got {name!r})")
    return METHODS[name]
