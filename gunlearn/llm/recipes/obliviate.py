"""OBLIVIATE: rule out a topic's words in forgotten texts, and keep the model's predictions on others."""

from dataclasses import dataclass
from typing import Any, cast

from peft import LoraConfig
from torch import Tensor

from gunlearn.core.checks import check_categorical, check_choice, check_number
from gunlearn.errors import InvalidInputError
from gunlearn.losses import KLToReference, Loss, MaskedVocabulary, MSEToReference, Objective, Prediction, as_objective
from gunlearn.losses.reduction import full_precision


@dataclass(frozen=True, repr=False, kw_only=True)
class FirstChoice(Loss):
    r"""Negative log-likelihood of the reference's first choice, :math:`\arg\max_c p_{ref}(c)`.

    The loss on world facts in the code of `"OBLIVIATE" <https://arxiv.org/abs/2505.04416>`_; the paper has the
    cross-entropy with the reference's distribution, which is `KLToReference` up to a constant.
    """

    name = "first_choice"
    summary = "likelihood of the reference's first choice"
    paper = "OBLIVIATE: Robust and Practical Machine Unlearning for Large Language Models"
    arxiv = "2505.04416"
    needs_reference = True

    on: str = "world"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("logits",)

    def values(self, current: Prediction, reference: Prediction | None, *others: Prediction | None) -> Tensor:
        own, before = (cast(Tensor, cast(Prediction, p).logits) for p in (current, reference))
        check_categorical(own, current.log_prob.shape)
        choice = before.argmax(-1, keepdim=True)
        return -full_precision(own).log_softmax(-1).gather(-1, choice)[..., 0]


def obliviate(
    token_ids: tuple[int, ...], l1: float = 0.2, l2: float = 0.7, mode: str = "default", hard_labels: bool = False
) -> Objective:
    r"""Return the three losses of `"OBLIVIATE" <https://arxiv.org/abs/2505.04416>`_ (sections 3.2 to 3.4).

    .. math:: KL(P \| Q)_{forget} + \lambda_1 \big(\|z - z_{ref}\|^2_{generic} + \|z - z_{ref}\|^2_{style}\big)
        + \lambda_2 \, CE(p_{ref}, p)_{world}

    where `Q` is the model's distribution and `P` the same without the target tokens; parts of weight 0 are left out.
    Squares are means over tokens and vocabulary; the cross-entropy is computed as a divergence, which differs by a
    constant. The paper's mask covers every token of a forgotten text: label them all. `retain_triples` makes the other
    parts. Nothing teaches what to say instead: outputs on the topic may become blank, unlike those of a retrained
    model. Report an alignment beside the memorisation score.

    Args:
        token_ids: the tokens to rule out, see `target_tokens`.
        l1: weight of each of the two distillations; default: the paper's.
        l2: weight of the world facts; default: the paper's.
        mode: `"default"` gives the tokens probability zero and takes means over tokens. `"paper"` gives them a logit of
            zero, which raises negative ones, and sums over a text's tokens. Neither has the gradient into `P` that the
            paper's code has.
        hard_labels: learn the reference's first choice on world facts, as the paper's code does.

    Raises:
        InvalidInputError: no tokens, negative weights, or an unknown mode.

    Example:
        >>> obliviate((3, 5), mode="paper").parts
        ('forget', 'generic', 'style', 'world')
    """
    check_choice("mode", mode, ("default", "paper"))
    for name, value in (("l1", l1), ("l2", l2)):
        check_number(name, value, minimum=0)
    paper = mode == "paper"
    mask = MaskedVocabulary(
        tuple(token_ids), mask_mode="zero_logit" if paper else "ninf", reduction="seq_sum" if paper else "mean"
    )
    held = [(l1, MSEToReference(field="logits", on=part)) for part in ("generic", "style")]
    world = (l2, FirstChoice() if hard_labels else KLToReference(on="world"))
    return sum((weight * loss for weight, loss in (*held, world) if weight), start=as_objective(mask))


def obliviate_settings(num_layers: int) -> tuple[dict[str, Any], LoraConfig]:
    """Return the training settings of the paper and its code for a model of `num_layers` layers, at least 5.

    They are arguments for `TrainingArguments(output_dir, **arguments)`, and the adapter for `peft.get_peft_model`: LoRA
    on all linear layers of blocks 4 to 7. The paper's texts have at most 1024 tokens. Add `fp16=True` as the paper, or
    better `bf16=True`.
    """
    if num_layers < 5:
        raise InvalidInputError(f"Expected at least 5 layers, of which 4 to 7 are trained (got {num_layers})")
    arguments = {
        "optim": "adamw_torch",
        "learning_rate": 3e-4,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 0.1,  # a share of all steps
        "max_grad_norm": 1.0,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 1,
    }
    adapter = LoraConfig(
        r=256,
        lora_alpha=16,
        lora_dropout=0.05,
        layers_to_transform=list(range(4, min(8, num_layers))),
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    return arguments, adapter
