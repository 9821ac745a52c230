"""A trainer for the models that know facts, and what tests read of it."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from gunlearn.llm import LLMResult, UnlearnTrainer, unlearn
from gunlearn.losses import NLL, NPO, Loss, Objective
from tests.llm import facts

ANYWHERE = Path(tempfile.gettempdir())  # where nothing is saved
OBJECTIVE = NPO(beta=0.1) + NLL(on="retain")
FORGET, RETAIN = facts.rows(facts.FORGET), facts.rows(facts.RETAIN)
UNMARKED = [{name: value for name, value in row.items() if name != "target_mask"} for row in FORGET]
UNLABELLED = FORGET[0] | {"labels": [-100] * len(FORGET[0]["labels"])}


def arguments(folder: Path = ANYWHERE, **options: Any) -> TrainingArguments:
    """Four steps of eight rows, from which nothing is saved but by choice."""
    settings = {
        "max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "logging_steps": 1, "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **(settings | options))


def make(
    folder: Path = ANYWHERE,
    model: nn.Module | None = None,
    objective: Loss | Objective | None = OBJECTIVE,
    given: dict[str, Any] | None = None,
    kind: type[UnlearnTrainer] = UnlearnTrainer,
    **options: Any,
) -> UnlearnTrainer:
    """A trainer; `given` goes to it, `options` to its arguments."""
    model = facts.full() if model is None else model
    data = {"forget_dataset": FORGET, "retain_dataset": RETAIN} | (given or {})
    return kind(model, objective, arguments(folder, **options), **data)


def unlearned(
    forget: Any = FORGET, retain: Any = RETAIN, method: Any = "npo", model: nn.Module | None = None, **how: Any
) -> LLMResult:
    """What `gunlearn.llm.unlearn` makes of the full model in one epoch, without figures."""
    model = facts.full() if model is None else model
    few = {"epochs": 1, "lr": 1e-3, "figure_rows": 0}
    return unlearn(model, facts.tokenizer(), forget, retain, method, **(few | how))


def adapted(model: nn.Module | None = None, **options: Any) -> PeftModel:
    """A model, by default the full one, with a new LoRA adapter."""
    config = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(0)
    return get_peft_model(facts.full() if model is None else model, LoraConfig(**(config | options)))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What a model trains, copied."""
    return copy.deepcopy({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})


def state(model: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers of a model, copied."""
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@torch.no_grad()
def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    return model.eval()(input_ids=tokens).logits


def own_forward(model: nn.Module) -> bool:
    """Whether a model computes as its class does, without what mixed precision puts around it: autocast would round."""
    plain, tokens = facts.fresh(), torch.tensor([FORGET[0]["input_ids"]])
    plain.load_state_dict(model.state_dict())
    alike = torch.equal(logits(model, tokens), logits(plain, tokens))
    return alike and not {"forward", "_original_forward"} & vars(model).keys()


class EachStep(TrainerCallback):
    """Calls a function with the step and the model after each step."""

    def __init__(self, function: Callable[[int, nn.Module], Any]) -> None:
        self.function = function

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.function(state.global_step, model)


class Gradients(TrainerCallback):
    """Keeps what the first step's gradient was."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.first = self.first or {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
