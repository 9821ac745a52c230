"""Language models for the command line. Loads when needed, since it imports transformers and peft."""

from functools import partial
from pathlib import Path
from typing import Any

from peft import AutoPeftModelForCausalLM
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import gunlearn.llm.model.bounded  # noqa: F401  # registers its adapter with peft
from gunlearn.cli.progress_bars import without_bars
from gunlearn.core.devices import resolve_device
from gunlearn.errors import InvalidInputError
from gunlearn.llm.model.frozen import check_vocabulary
from gunlearn.metrics.standing import check_retrained

__all__ = [
    "check_retrained",
    "check_vocabulary",
    "is_adapter",
    "load_language_model",
    "quiet",
    "rename",
    "resolve_device",
]

#: Hides the bars of transformers inside a block, unless it is called with `progress=True`.
quiet = partial(without_bars, logging)


def is_adapter(name: str) -> bool:
    """Return whether a folder holds an adapter of peft."""
    return (Path(name) / "adapter_config.json").is_file()


def load_language_model(name: str, dtype: str = "auto") -> tuple[Any, Any]:
    """Return model and tokenizer of a folder or an id, or refuse it; an adapter is merged into its model."""
    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1):
        raise InvalidInputError(f"Expected a folder of a model, or an id like owner/name (got {name}: no such folder)")
    try:
        if is_adapter(name):
            model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype).merge_and_unload()
            for parameter in model.parameters():  # peft froze them
                parameter.requires_grad_(parameter.is_floating_point())
            rename(model, name)
        else:
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:  # damaged files too
        raise InvalidInputError(
            f"Expected a causal language model with its tokenizer in {name} (got {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})"
        ) from error


def rename(model: Any, name: str) -> None:
    """Set the origin of a model that adapters and records name."""
    model.name_or_path = model.config.name_or_path = name
