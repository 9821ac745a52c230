"""Weights sharded over processes (FSDP): what is refused before work starts, and the frozen copy, sharded likewise."""

import os
from typing import Any

import torch
from accelerate.utils import DistributedType, parse_flag_from_env
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.frozen import FrozenReference

_LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"


def check_sharding(args: TrainingArguments) -> None:
    """Refuse ways to shard that are not understood, before a process reads the model's weights.

    Raises:
        InvalidInputError: version 1 of FSDP; FSDP with `cpu_ram_efficient_loading`, by which only the first process has
            the weights that the reference is made from, or ZeRO stage 3, by which each has a piece.
    """
    asked, launched = args.fsdp_plugin_args or {}, parse_flag_from_env("ACCELERATE_USE_FSDP")
    version = asked.get("fsdp_version") if asked else os.environ.get("FSDP_VERSION") or "1" if launched else None
    if version is not None and int(version) != 2:
        raise InvalidInputError(
            f"Expected version 2 of FSDP (got {version}); set fsdp_config={{'version': 2}}, or accelerate launch "
            "--fsdp_version 2"
        )
    partly = asked.get("cpu_ram_efficient_loading") or (launched and parse_flag_from_env(_LOADING))
    if partly and int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise InvalidInputError(
            "Expected the weights on every process (got FSDP's 'cpu_ram_efficient_loading', by which only the first "
            "one reads them); set it to false, or accelerate launch --fsdp_cpu_ram_efficient_loading false"
        )
    if is_deepspeed_zero3_enabled():
        raise InvalidInputError(
            "Expected the weights on every process (got DeepSpeed's ZeRO stage 3, by which each has a piece); use "
            "stage 1 or 2, or FSDP"
        )


def check_sharded(accelerator: Any, args: TrainingArguments) -> None:
    """Refuse FSDP on processes among which accelerate does not shard: it would leave FSDP out without a word."""
    asked = bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")
    if asked and accelerator.distributed_type != DistributedType.FSDP and accelerator.num_processes > 1:
        raise InvalidInputError(
            f"Expected devices that accelerate shards weights over for FSDP (got {accelerator.num_processes} processes "
            f"on '{accelerator.device.type}', where it would keep them whole); leave FSDP out"
        )


def first_broken(model: nn.Module, accelerator: Any) -> str | None:
    """Return the name of the first trained parameter with NaN or infinity on any process, `None` if there is none."""
    trained = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    pieces = [
        p.to_local() if isinstance(p, DTensor) else p for _, p in trained
    ]  # DTensor's `all` reads its piece alone
    broken = torch.stack([~piece.isfinite().all() for piece in pieces]).to(accelerator.device, torch.float32)
    if accelerator.num_processes > 1:
        broken = accelerator.reduce(broken, "sum")
    return next((name for (name, _), bad in zip(trained, broken.tolist(), strict=True) if bad), None)


def place_reference(reference: FrozenReference, copied: bool, accelerator: Any) -> None:
    """Move a reference to this process's device; shard a frozen copy of our own as the model will be.

    A reference of the caller's stays whole on each process, or spread as it is.
    """
    if copied and reference.frozen is not None and accelerator.distributed_type == DistributedType.FSDP:
        reference.frozen = fsdp2_prepare_model(accelerator, reference.frozen)
    else:
        reference.to(accelerator.device)
