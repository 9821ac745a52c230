"""Unlearning methods for language models by name, with the settings they were published with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gunlearn.errors import InvalidInputError
from gunlearn.llm.recipes.plan import OURS, Given, LLMMethod, Plan
from gunlearn.losses import (
    DPO,
    IHL,
    KTO,
    NPO,
    RMU,
    UNDIAL,
    WGA,
    CrossEntropyUnlearning,
    FlatLogits,
    GradientAscent,
    JSDToRefusal,
    KLToReference,
    MaskedVocabulary,
    PrimalDual,
    SatImp,
    SimNPO,
    as_objective,
)


class _RMU(LLMMethod):
    """Reads hidden states of one layer."""

    def forgetting(self, options: dict[str, Any], given: Given) -> Plan:
        """The layer is open-unlearning's `model.layers[7]`, of 32 as here, or the same share of the model's own.

        What that layer hands on is the hidden state after it: those are counted from the token embeddings, 0.
        """
        layer = options.pop("layer")
        if layer is None:
            config = getattr(given.model, "config", None)
            depth = getattr(config, "num_hidden_layers", 32)
            layer = min(round(7 / 32 * depth) + 1, depth)
        return dataclasses.replace(super().forgetting(options, given), layer=layer)


class _DTO(LLMMethod):
    """Marks tokens first, where the rows bring no marks."""

    def loss_options(self) -> dict[str, Any]:
        """Those of `gunlearn.llm.recipes.direct_tokens`, and the share of tokens to mark."""
        return {"forget_loss": "npo", "lambda_": 1.0, "beta": 0.5, "ratio": 0.2}

    def forgetting(self, options: dict[str, Any], given: Given) -> Plan:
        """Rows with `target_mask` are taken as they are."""
        from gunlearn.llm.data.collate import collator_of
        from gunlearn.llm.data.marking import select_tokens
        from gunlearn.llm.data.selectors import ProbeDelta
        from gunlearn.llm.recipes.direct_tokens import dto

        ratio, rows = options.pop("ratio"), None
        if given.model is not None and not all("target_mask" in row for row in given.forget):
            collator = collator_of(given.model, given.tokenizer)
            rows = select_tokens(given.model, given.forget, ProbeDelta(), ratio, collator=collator)
        return Plan(dto(**options), forget=rows)


class _PDU(LLMMethod):
    """Holds the retain loss below a bound, with a weight that follows it."""

    def loss_options(self) -> dict[str, Any]:
        """Those of `PrimalDual`; its weight begins with `retain_weight`."""
        return {"epsilon": None, "step": 1.0, "warmup": 0}

    def plan(self, options: Mapping[str, Any] | None = None, *given: Any, **more: Any) -> Plan:
        """A bound is in the units of its retain loss, and is worked out for the negative log-likelihood alone."""
        chosen = self.options() | dict(options or {})
        if chosen["epsilon"] is None and chosen["retain_loss"] != "nll":
            raise InvalidInputError(
                f"Expected 'epsilon', the bound, with retain_loss={chosen['retain_loss']!r} (got none)"
            )
        return super().plan(options, *given, **more)

    def forgetting(self, options: dict[str, Any], given: Given) -> Plan:
        """Without a bound, that is the retain loss before unlearning; ours, the paper wants one given."""
        epsilon = options.pop("epsilon")
        if epsilon is None and given.model is not None and given.retain:
            from gunlearn.llm.metrics.row_figures import figures

            epsilon = figures(given.model, {"retain": given.retain})["retain"]["nll"]

        def attach(trainer: Any) -> None:
            from gunlearn.llm.training.primal_dual_callback import PrimalDualCallback

            weight = next((w for w, loss in trainer.objective.terms if loss.on == "retain"), 0.0)
            PrimalDualCallback(trainer, PrimalDual(epsilon, **options, weight=weight))

        return Plan(as_objective(FlatLogits()), attach=attach, found={"epsilon": epsilon})


class _Obliviate(LLMMethod):
    """Finds the words to rule out first. Retained rows serve as generic texts and as world facts."""

    def loss_options(self) -> dict[str, Any]:
        """Those of `gunlearn.llm.target_tokens`, the mask's and the weight of world facts."""
        return {
            "words": None,
            "min_ratio": 10.0,
            "min_count": 2,
            "max_document_frequency": 0.05,
            "mask_mode": "ninf",
            "world_weight": 0.7,
        }

    def forgetting(self, options: dict[str, Any], given: Given) -> Plan:
        """The texts are whole rows, questions and answers."""
        from gunlearn.llm.data.target_tokens import target_tokens

        mask_mode, weight = options.pop("mask_mode"), options.pop("world_weight")
        ids = (0,)  # to show the objective, without data
        if given.model is not None:
            texts = [
                [given.tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in rows]
                for rows in (given.forget, given.retain)
            ]
            if not texts[1]:
                raise InvalidInputError(
                    f"Expected rows to retain for '{self.name}' (got none): words are common or not"
                )
            ids = target_tokens(*texts, given.tokenizer, **options).token_ids
        objective = as_objective(MaskedVocabulary(ids, mask_mode=mask_mode))
        return Plan(objective + weight * KLToReference(on="retain") if weight else objective)


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
        LLMMethod("dpo", "prefers another answer, by default a refusal", DPO, settings={"scale": 2.0}),
        LLMMethod("kto", "makes forgotten answers undesirable", KTO, source=OURS),
        LLMMethod("wga", "ascent, weighted by how likely tokens are", WGA),
        LLMMethod("satimp", "ascent on half-known tokens", SatImp, forget_weight=0.1),
        LLMMethod("undial", "distils the model without the forgotten token", UNDIAL, retain_weight=0.0, lr=1e-4),
        LLMMethod(
            "ceu",
            "cross-entropy without the token",
            CrossEntropyUnlearning,
            retain_weight=0.0,
            settings={"skip_first": 1},
        ),
        LLMMethod("ihl", "inverted hinge: the runner-up takes over", IHL, source=OURS),
        LLMMethod(
            "jensun",
            "bounded divergence to a refusal, held to the model before",
            JSDToRefusal,
            retain_loss="jsd",
            source=OURS,
        ),
        _RMU(
            "rmu",
            "leads hidden states astray, holds those of retained rows",
            RMU,
            retain_loss="hidden",
            settings={"coefficient": 2.0, "layer": None},
        ),
        _PDU("pdu", "flat logits, the retain loss below a bound", FlatLogits, retain_weight=50.0),
        _DTO("dto", "forgets the telling tokens of an answer, holds the rest", NPO, retain_weight=0.0, source=OURS),
        _Obliviate(
            "obliviate",
            "rules out telling words, holds logits of retained rows",
            MaskedVocabulary,
            retain_weight=0.2,
            retain_loss="logits",
            lr=3e-5,
            adapter_lr=3e-4,
            epochs=4,
            source="the paper's, for adapters (rank 256, blocks 4 to 7: `obliviate_settings`)",
        ),
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


def methods_listing() -> tuple[list[str], list[list[str]]]:
    """Heading and rows of all methods."""
    head = ["method", "what it does", "objective", "reads", "options", "lr", "lr of adapters", "epochs", "settings of"]
    body = []
    for method in METHODS.values():
        objective = method.plan().objective
        parts = dict.fromkeys(part.partition(":")[0] for part in objective.parts)
        options = ", ".join(f"{name}={value}" for name, value in method.options().items())
        rates = [f"{method.rate(adapter):g}" for adapter in (False, True)]
        shown = repr(objective).replace("token_ids=(0,)", "telling words")
        body.append(
            [method.name, method.summary, shown, ", ".join(parts), options, *rates, str(method.epochs), method.source]
        )
    return head, body
