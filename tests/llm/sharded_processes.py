"""What `test_sharding.py` runs in one process and, through `accelerate launch`, in two that share weights by FSDP."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gunlearn.errors import GunlearnError
from gunlearn.llm import UnlearnTrainer
from gunlearn.llm.metrics import probability, token_scores
from gunlearn.losses import NLL, NPO
from tests.llm import facts
from tests.llm.training import FORGET, RETAIN, EachStep, adapted, arguments

WORLD = int(os.environ.get("WORLD_SIZE", 1))
CONFIG = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
STEPS, SAVED = 6, 3


def trainer(folder: Path, model: nn.Module, given: dict[str, Any], **options: Any) -> UnlearnTrainer:
    """A trainer of steps of eight rows, however many processes share them."""
    usual = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVED, "learning_rate": 1e-3}
    sharded = {"fsdp": True, "fsdp_config": dict(CONFIG)} if WORLD > 1 and "deepspeed" not in options else {}
    args = arguments(folder, per_device_train_batch_size=8 // WORLD, **(usual | sharded | options))
    if args.fsdp and args.device is not None:  # accelerate shards over GPUs and their like alone: these are such
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    objective = NPO(beta=0.1) + NLL(on="retain")
    data = {"forget_dataset": FORGET, "retain_dataset": RETAIN, "eval_dataset": RETAIN[:7]}
    return UnlearnTrainer(model, objective, args, **data, **given)


def precise() -> nn.Module:
    """The model in float64: in float32 AdamW enlarges how eight rows, or twice four, are rounded."""
    return facts.full().double()


def whole(model: nn.Module) -> dict[str, Tensor]:
    """All trained weights, gathered."""
    found = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return {name: p.full_tensor() if isinstance(p, DTensor) else p.clone() for name, p in found.items()}


def run(folder: Path, build: Callable[[], nn.Module], **given: Any) -> dict[str, Any]:
    options = given.pop("options", {})
    made = trainer(folder, build(), given, **options)
    made.train()
    again = trainer(folder, build(), given, **options)
    again.train(resume_from_checkpoint=str(folder / f"checkpoint-{SAVED}"))
    reference = made.reference.frozen
    return {
        "weights": whole(made.model),
        "resumed": whole(again.model),
        "logs": [entry for entry in made.state.log_history if "loss" in entry],
        "evaluated": made.evaluate(),
        "sharded": [any(isinstance(p, DTensor) for p in m.parameters()) for m in (made.model, reference) if m],
    }


def known(model: nn.Module) -> dict[str, float]:
    """A figure of the whole model, which all processes compute together."""
    return {"known": float(probability(token_scores(model, FORGET[:5])).mean())}


def refused(call: Callable[[], Any]) -> str:
    """What an error says."""
    try:
        call()
    except GunlearnError as error:
        return str(error)
    return ""


@torch.no_grad()
def spoil(step: int, model: nn.Module) -> None:
    """Make a weight infinite that the last process holds."""
    if int(os.environ.get("RANK", 0)) == WORLD - 1:
        weight = next(p for p in model.parameters() if p.requires_grad)
        (weight.to_local() if isinstance(weight, DTensor) else weight)[-1] = torch.inf


def refusals(folder: Path) -> dict[str, str]:
    """What is refused where several processes would share weights."""

    def made(**config: Any) -> str:
        return refused(lambda: trainer(folder, facts.full(), {}, fsdp_config=CONFIG | config))

    plain = arguments(folder, fsdp=True, fsdp_config=dict(CONFIG))
    return {
        "processors": refused(lambda: UnlearnTrainer(facts.full(), NPO(), plain, forget_dataset=FORGET)),
        "first version": made(version=1),
        "one reader": made(cpu_ram_efficient_loading=True),
    }


def main(folder: Path) -> dict[str, Any]:
    last = {"callbacks": [EachStep(spoil)]}
    broken = trainer(folder / "broken", facts.full(), last, max_steps=1, save_strategy="no")
    out: dict[str, Any] = {
        "copy": run(folder / "copy", precise, unlearning_metrics=known),
        "adapter": run(folder / "adapter", adapted, options={"learning_rate": 3e-2}),
        "other": run(folder / "other", precise, reference=precise()),
    }
    out["broken"] = refused(broken.train)
    if WORLD > 1:
        out["refused"] = refusals(folder)
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    into = Path(sys.argv[1])
    torch.save(main(into), into / f"rank{os.environ['RANK']}.pt")
