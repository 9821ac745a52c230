"""Language models for the command line. Loads when needed, since it imports transformers and peft."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging

import gunlearn.llm.model.bounded  # noqa: F401  # registers its adapter with peft
from gunlearn.cli.adapter_base import is_adapter, model_below
from gunlearn.cli.progress_bars import without_bars
from gunlearn.core.devices import resolve_device
from gunlearn.errors import InvalidInputError, MissingExtraError
from gunlearn.llm.model.frozen import check_vocabulary
from gunlearn.llm.model.gguf_file import read_gguf
from gunlearn.llm.model.whole_weights import WholeAdapter, WholeModel
from gunlearn.metrics.standing import check_retrained
from gunlearn.training.processes import processes, world_size

__all__ = [
    "check_retrained",
    "check_vocabulary",
    "is_adapter",
    "load_for_evaluation",
    "load_language_model",
    "on_device",
    "quiet",
    "rename",
    "resolve_device",
]

#: Hides the bars of transformers inside a block, unless it is called with `progress=True`.
quiet = partial(without_bars, logging)


def load_language_model(name: str, dtype: str = "auto", merge: bool = True, **how: Any) -> tuple[Any, Any]:
    """Return model and tokenizer of a folder or an id, or refuse it.

    An adapter is merged into its model; without `merge` it stays one, to be trained. `how` has further arguments of
    `from_pretrained`.
    """
    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1):
        raise InvalidInputError(f"Expected a folder of a model, or an id like owner/name (got {name}: no such folder)")
    if _gguf_file(name) is not None:
        raise InvalidInputError(
            f"Expected a folder of transformers, which can be trained and saved (got a GGUF file: {name}); "
            "gunlearn.llm.plain_folder makes one"
        )
    adapter, below = is_adapter(name), model_below(name)
    if adapter and (below is None or (Path(below).is_absolute() and not Path(below).is_dir())):
        got = "no 'base_model_name_or_path'" if below is None else f"{below}, no folder here"
        raise InvalidInputError(f"Expected the model below the adapter in {name} (got {got})")
    try:
        if not adapter:
            model = WholeModel.from_pretrained(name, dtype=dtype, **how)
        elif not merge:
            model = WholeAdapter.from_pretrained(name, dtype=dtype, is_trainable=True, **how)
        else:
            model = WholeAdapter.from_pretrained(name, dtype=dtype, **how).merge_and_unload()
            for parameter in model.parameters():  # peft froze them
                parameter.requires_grad_(parameter.is_floating_point())
            rename(model, name)
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:  # damaged files too
        raise InvalidInputError(
            f"Expected a causal language model with its tokenizer in {name} (got {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})"
        ) from error


def load_retrained(name: str, dtype: str, model: Any, tokenizer: Any, of: str) -> Any:
    """Return the model of `name`; refuse one that cannot be a retrained `model`.

    That is one of another architecture, size or vocabulary, or with the same weights.

    Args:
        name: folder or id.
        dtype: precision of the weights.
        model: the model before unlearning.
        tokenizer: its tokenizer.
        of: its name.
    """
    retrained, other = load_language_model(name, dtype)
    check_vocabulary(model, retrained)
    shapes = [{key: tuple(p.shape) for key, p in each.named_parameters()} for each in (model, retrained)]
    if shapes[0] != shapes[1]:
        sizes = [f"{sum(p.numel() for p in each.parameters()):,}" for each in (model, retrained)]
        raise InvalidInputError(
            f"Expected a retrained model of the architecture of {of}, with {sizes[0]} parameters (got {name}, of "
            f"{sizes[1]} or with other shapes)"
        )
    if tokenizer.get_vocab() != other.get_vocab():
        raise InvalidInputError(
            f"Expected a retrained model with the tokenizer of {of} (got {name}: its tokens have other numbers)"
        )
    check_retrained([retrained], {f"the model of {of}": model})
    return retrained


def load_for_evaluation(
    name: str, dtype: str = "auto", device: str = "auto", device_map: str | None = None, load_in: str | None = None
) -> tuple[Any, Any]:
    """Return model and tokenizer to evaluate, of a folder, an id or a GGUF file, on the device of this process.

    Args:
        name: a folder, an id, a GGUF file, or a folder with one.
        dtype: precision of the weights.
        device: `"cpu"`, `"cuda"` or `"auto"`.
        device_map: where transformers puts the layers; not beside several processes.
        load_in: `"4bit"` or `"8bit"`, by bitsandbytes.

    Raises:
        InvalidInputError: no model there, a GGUF file that transformers cannot read, or a `device_map` in several
            processes.
        MissingExtraError: bitsandbytes is not installed.
    """
    team, how = processes(), dict[str, Any]()
    model: Any
    if device_map is not None and team.world > 1:
        raise InvalidInputError(f"Expected one process for --device-map (got {team.world})")
    if load_in is not None:
        if find_spec("bitsandbytes") is None:
            raise MissingExtraError("Expected bitsandbytes for --load-in (not installed); pip install bitsandbytes")
        four = load_in == "4bit"
        config = BitsAndBytesConfig(load_in_4bit=four, load_in_8bit=not four, bnb_4bit_quant_type="nf4")
        how["quantization_config"] = config
    how |= {} if device_map is None else {"device_map": device_map}
    file = _gguf_file(name)
    if file is not None:
        model, tokenizer = read_gguf(file, dtype, **how)
    else:
        model, tokenizer = load_language_model(name, dtype, **how)
    if device_map is None and load_in is None:
        model.to(team.device if team.world > 1 else resolve_device(device))
    return model.eval(), tokenizer


def on_device(model: Any, device: str) -> Any:
    """Return the model on the device of a name; quantised weights stay where they are loaded.

    Of several processes each has a device of its own, where a Trainer puts the model.
    """
    found = resolve_device(device)
    stays = world_size() > 1 or getattr(model, "is_quantized", False)
    return model if stays else model.to(found)


def _gguf_file(name: str) -> Path | None:
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or any((path / other).is_file() for other in ("config.json", "adapter_config.json")):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise InvalidInputError(f"Expected one GGUF file in {name} (got {', '.join(f.name for f in found)}); name one")
    return found[0] if found else None


def rename(model: Any, name: str) -> None:
    """Set the origin of a model that adapters and records name."""
    model.name_or_path = model.config.name_or_path = name
