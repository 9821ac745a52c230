"""Loading language models for the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gunlearn.errors import InvalidInputError


def is_adapter(name: str) -> bool:
    """Whether a folder holds an adapter of peft."""
    return (Path(name) / "adapter_config.json").is_file()


def load(name: str, dtype: str = "auto") -> tuple[Any, Any]:
    """Model and tokenizer of a folder or an id; an adapter is merged into its model.

    Raises:
        InvalidInputError: there is no causal language model, or no tokenizer.
    """
    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1):
        raise InvalidInputError(f"Expected a folder of a model, or an id like owner/name (got {name}: no such folder)")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        if is_adapter(name):
            from peft import AutoPeftModelForCausalLM

            import gunlearn.llm.model.bounded  # noqa: F401  # from here on peft knows this kind of adapter too

            model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype).merge_and_unload()
            for parameter in model.parameters():  # peft froze them; merged, they are the model's own again
                parameter.requires_grad_(parameter.is_floating_point())
            rename(model, name)
        else:
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"Expected a causal language model with its tokenizer in {name} (got {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]})"
        ) from error


def rename(model: Any, name: str) -> None:
    """Say where a model comes from: adapters and records name that place."""
    model.name_or_path = model.config.name_or_path = name


@contextmanager
def quiet(progress: bool) -> Iterator[None]:
    """Without transformers' own bars where none are wanted."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if not progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
