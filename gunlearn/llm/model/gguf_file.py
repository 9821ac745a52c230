"""A plain transformers folder out of a GGUF file, whose model as loaded cannot be saved."""

import copy
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from gunlearn.core.atomic import replace_folder
from gunlearn.errors import InvalidInputError, MissingExtraError


def plain_folder(gguf: str | PathLike[str], folder: str | PathLike[str]) -> Path:
    """Write the model and the tokenizer of a GGUF file to a folder that `from_pretrained` reads; return the folder.

    Weights are de-quantised once, to float32: what was rounded when the file was made stays rounded. Tied weights are
    stored once. The folder appears when all is written, so that a stopped run leaves none.

    Args:
        gguf: a file of a causal language model, of an architecture whose GGUF files transformers reads.
        folder: a new or an empty one.

    Raises:
        InvalidInputError: no such file, one that transformers cannot read, weights that are not finite, or a folder
            that holds something.
        MissingExtraError: the package `gguf` is not installed.

    Example:
        >>> plain_folder("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2")  # doctest: +SKIP
    """
    source, target = Path(gguf), Path(folder)
    _check_reader(source)
    if not source.is_file():
        raise InvalidInputError(f"Expected a GGUF file (got {source}: no such file)")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInputError(f"Expected a new or an empty folder for the model of {source} (got {target})")
    loaded, tokenizer = read_gguf(source, torch.float32)
    model = _plain(loaded, source)

    def write(beside: Path) -> None:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)

    return replace_folder(target, write)


def _check_reader(source: Path) -> None:
    if find_spec("gguf") is None:
        raise MissingExtraError(f'Expected gguf to read {source} (not installed); pip install "gunlearn[gguf]"')


def read_gguf(source: Path, dtype: str | torch.dtype = "auto", **more: Any) -> tuple[Any, Any]:
    """Return model and tokenizer of a GGUF file as transformers reads them; `more` is for the model.

    Raises:
        InvalidInputError: a file that transformers cannot read.
        MissingExtraError: the package `gguf` is not installed.
    """
    _check_reader(source)
    where, how = str(source.parent), {"gguf_file": source.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **how, **more)
        return model, AutoTokenizer.from_pretrained(where, **how)
    except Exception as error:  # whatever readers of damaged files raise: KeyError, struct.error, UnicodeDecodeError
        raise InvalidInputError(
            f"Expected a GGUF file of a causal language model that transformers reads (got {source}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}); give a folder of transformers instead, "
            "or a file of another architecture or quantisation"
        ) from error


def _plain(loaded: nn.Module, source: Path) -> Any:
    """Return the model built from its configuration, with the loaded weights."""
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    weights = loaded.state_dict()
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise InvalidInputError(f"Expected finite weights in {source} (got others in {bad[:3]}); get the file again")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(weights)
    model.tie_weights()
    return model
