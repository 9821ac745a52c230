"""Methods for language models only: a forget loss and a retain loss on tokens (settings: `published.py`)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from gunlearn import losses
from gunlearn.core.checks import check_choice, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.llm.data.collate import collator_of
from gunlearn.llm.data.marking import select_tokens
from gunlearn.llm.data.selectors import ProbeDelta
from gunlearn.llm.data.target_tokens import target_tokens
from gunlearn.llm.metrics.row_figures import figures
from gunlearn.llm.recipes.direct_tokens import dto
from gunlearn.llm.recipes.influence_ascent import InfluenceAscent
from gunlearn.llm.recipes.plan import Given, Plan
from gunlearn.llm.training.primal_dual_callback import PrimalDualCallback
from gunlearn.methods.any_task.retained import RETAIN_LOSSES
from gunlearn.methods.gradient import GradientMethod


def _options_of(loss: type[losses.Loss]) -> list[dataclasses.Field]:
    """Return the fields of a loss that are options of a method."""
    return [f for f in dataclasses.fields(loss) if f.name not in ("on", "reduction", "preferred", "point")]


@dataclass(frozen=True)
class TokenMethod(GradientMethod):
    """A weighted forget loss and a weighted retain loss over rows of tokens.

    Subclasses have the fields of their forget loss as further options.

    Args:
        forget_weight: at least 0.
        retain_weight: at least 0; with 0 no retained rows are read.
        retain_loss: a name of `RETAIN_LOSSES`.
    """

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    retain_loss: str = "nll"

    requests = ("items",)
    tasks = ("causal_lm",)
    cost = "`epochs` passes over the forgotten rows"
    loss: ClassVar[type[losses.Loss]]

    def __post_init__(self) -> None:
        for name in ("forget_weight", "retain_weight"):
            check_number(name, getattr(self, name), minimum=0.0)
        check_choice("retain_loss", self.retain_loss, tuple(RETAIN_LOSSES))
        super().__post_init__()

    def forgetting(self, given: Given) -> Plan:
        """Return the plan of the forget loss alone."""
        options = {f.name: getattr(self, f.name) for f in _options_of(self.loss)}
        return Plan(losses.as_objective(self.loss(**options)))

    def plan(self, given: Given | None = None) -> Plan:
        """Return the plan of both losses; some methods read model and rows in `given`."""
        plan = self.forgetting(given or Given())
        objective = self.forget_weight * plan.objective
        if self.retain_weight:
            objective += self.retain_weight * RETAIN_LOSSES[self.retain_loss]
        return replace(plan, objective=objective)

    def objective(self) -> losses.Objective:
        return self.plan().objective


@dataclass(frozen=True)
class _RMU(TokenMethod):
    """Read hidden states of one layer."""

    layer: int | None = None

    def forgetting(self, given: Given) -> Plan:
        # By default the output of open-unlearning's `model.layers[7]` of 32, or of the layer at the same share of the
        # model's depth. Hidden state 0 is the token embeddings.
        layer = self.layer
        if layer is None:
            depth = getattr(getattr(given.model, "config", None), "num_hidden_layers", 32)
            layer = min(round(7 / 32 * depth) + 1, depth)
        return replace(super().forgetting(given), layer=layer)


@dataclass(frozen=True)
class DTOMethod(TokenMethod):
    """Direct token optimisation, see `dto`; marks tokens by `ProbeDelta` in rows without a `target_mask`.

    Args:
        forget_loss: loss on the marked tokens: `"npo"`, `"ga"` or `"ceu"`.
        lambda_: weight of the divergence on the other tokens.
        beta: inverse temperature of `"npo"`.
        ratio: share of tokens to mark.
    """

    forget_loss: str = "npo"
    lambda_: float = 1.0
    beta: float = 0.5
    ratio: float = 0.2
    retain_weight: float = 0.0

    name = "dto"
    summary = "lowers the probability of an answer's informative tokens, keeps that of the others"
    paper = "Direct token optimisation"
    needs = "reference model"

    def forgetting(self, given: Given) -> Plan:
        rows = None
        if given.model is not None and not all("target_mask" in row for row in given.forget):
            collator = collator_of(given.model, given.tokenizer)
            marked = select_tokens(given.model, given.forget, ProbeDelta(), self.ratio, collator=collator)
            rows = [row if "target_mask" in row else new for row, new in zip(given.forget, marked, strict=True)]
        return Plan(dto(self.forget_loss, self.lambda_, self.beta), forget=rows)


@dataclass(frozen=True)
class PDUMethod(TokenMethod):
    """Hold the retain loss below a bound by an adaptive weight, `retain_weight` at first.

    Args:
        epsilon: the bound, in the units of the retain loss. `None` takes that loss before unlearning, for `"nll"` only
            (the paper requires a bound).
        step: step size of the weight.
        warmup: steps before the weight changes.
    """

    epsilon: float | None = None
    step: float = 1.0
    warmup: int = 0
    retain_weight: float = 50.0

    name = "pdu"
    summary = "flattens the logits, with a bound on the retain loss"
    needs = "retained data"

    def __post_init__(self) -> None:
        if self.epsilon is None and self.retain_loss != "nll":
            raise InvalidInputError(f"Expected 'epsilon', the bound, with retain_loss={self.retain_loss!r} (got none)")
        super().__post_init__()

    def forgetting(self, given: Given) -> Plan:
        epsilon = self.epsilon
        if epsilon is None and given.model is not None and given.retain:
            epsilon = figures(given.model, {"retain": given.retain})["retain"]["nll"]

        def attach(trainer: Any) -> None:
            weight = next((w for w, loss in trainer.objective.terms if loss.on == "retain"), 0.0)
            PrimalDualCallback(
                trainer, losses.PrimalDual(cast(float, epsilon), step=self.step, warmup=self.warmup, weight=weight)
            )

        return Plan(losses.as_objective(losses.FlatLogits()), attach=attach, found={"epsilon": epsilon})


@dataclass(frozen=True)
class ObliviateMethod(TokenMethod):
    """Find the words to rule out, then train; retained rows serve as generic texts and world facts.

    Args:
        words: words to rule out; by default found by frequency in whole rows, see `target_tokens`.
        min_ratio: how much commoner a word must be among forgotten rows.
        min_count: how often it must occur there.
        max_document_frequency: largest share of retained rows that may hold a piece of it.
        mask_mode: see `MaskedVocabulary`.
        world_weight: weight of world facts.
    """

    words: Sequence[str] | None = None
    min_ratio: float = 10.0
    min_count: int = 2
    max_document_frequency: float = 0.05
    mask_mode: str = "ninf"
    world_weight: float = 0.7
    retain_weight: float = 0.2
    retain_loss: str = "logits"

    name = "obliviate"
    summary = "rules out the words that identify the target, keeps the logits of retained rows"
    needs = "retained data, reference model"

    def forgetting(self, given: Given) -> Plan:
        ids: tuple[int, ...] = (0,)  # to show the objective, without data
        if given.model is not None:
            if not given.retain:
                raise InvalidInputError(
                    f"Expected rows to retain for '{self.name}' (got none): words are common or not"
                )
            if given.tokenizer is None:
                raise InvalidInputError(
                    f"Expected a tokenizer for '{self.name}', which looks for words (got none); "
                    "gunlearn.llm.unlearn takes one"
                )
            forget, retain = (
                [given.tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in rows]
                for rows in (given.forget, given.retain)
            )
            rule = {name: getattr(self, name) for name in ("words", "min_ratio", "min_count", "max_document_frequency")}
            ids = target_tokens(forget, retain, given.tokenizer, **rule).token_ids
        objective = losses.as_objective(losses.MaskedVocabulary(ids, mask_mode=self.mask_mode))
        return Plan(
            objective + self.world_weight * losses.KLToReference(on="retain") if self.world_weight else objective
        )


def token_method(
    name: str, loss: type[losses.Loss], summary: str, base: type[TokenMethod] = TokenMethod, **defaults: Any
) -> type[TokenMethod]:
    """Make a method of a loss on tokens; the loss's fields become options, with other defaults in `defaults`."""
    fields: list[Any] = [(f.name, f.type, defaults.pop(f.name, f.default)) for f in _options_of(loss)]
    fields += [(key, type(value).__name__, value) for key, value in defaults.items()]
    retained = defaults.get("retain_weight", 1.0) and "retained data"
    reference = loss.needs_reference or RETAIN_LOSSES[defaults.get("retain_loss", "nll")].needs_reference
    namespace = {
        "name": name,
        "summary": summary,
        "paper": f"arXiv {loss.arxiv}" if loss.arxiv else loss.paper,
        "needs": ", ".join(filter(None, (retained, "reference model" if reference else ""))),
        "loss": loss,
        "__doc__": f"{summary.capitalize()}; options are those of `losses.{loss.__name__}` and of `TokenMethod`.",
        "__module__": __name__,
    }
    made = dataclasses.make_dataclass(f"{loss.__name__}Method", fields, bases=(base,), namespace=namespace, frozen=True)
    made.__qualname__ = made.__name__
    return made


SimNPOMethod = token_method(
    "simnpo", losses.SimNPO, "negative preference per token, without a reference model", forget_weight=0.125
)
DPOMethod = token_method("dpo", losses.DPO, "prefers another answer, by default a refusal", scale=2.0)
KTOMethod = token_method("kto", losses.KTO, "makes forgotten answers undesirable (Kahneman-Tversky)")
WGAMethod = token_method("wga", losses.WGA, "gradient ascent, weighted by each token's probability")
SatImpMethod = token_method("satimp", losses.SatImp, "gradient ascent on half-known tokens", forget_weight=0.1)
UNDIALMethod = token_method(
    "undial", losses.UNDIAL, "distils the model, the forgotten token's logit lowered", retain_weight=0.0
)
CEUnlearningMethod = token_method(
    "ce_unlearning",
    losses.CrossEntropyUnlearning,
    "cross-entropy to the model without the token",
    retain_weight=0.0,
    skip_first=1,
)
InfluenceAscentMethod = token_method(
    "influence_ascent",
    InfluenceAscent,
    "gradient ascent, each token weighted by its influence on the batch (IMU as a loss)",
    retain_weight=0.0,
)
IHLMethod = token_method("ihl", losses.IHL, "inverted hinge: the second most likely token takes over")
JensUnMethod = token_method(
    "jensun",
    losses.JSDToRefusal,
    "bounded divergence to a refusal, near the original elsewhere",
    retain_loss="jsd",
)
_ASTRAY = "moves hidden states of forgotten rows to a random direction, keeps those of retained rows"
RMUMethod = token_method("rmu", losses.RMU, _ASTRAY, _RMU, retain_loss="hidden", coefficient=2.0)
