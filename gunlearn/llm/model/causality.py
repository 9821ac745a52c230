"""The one check of what a language model is: a head over a vocabulary, and logits that read no later token."""

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gunlearn.core.modes import evaluating
from gunlearn.errors import InvalidTypeError, UnsupportedModelError
from gunlearn.llm.model.head import model_device, unwrap, without_peft

#: Largest change of earlier logits by later tokens, as a share of their range: rounding, in full and half precision.
_ROUNDING, _HALF_ROUNDING = 5e-5, 5e-3
#: By model: its configuration when it was tried, and whether it read later tokens.
_LATER: WeakKeyDictionary[nn.Module, tuple[str, bool]] = WeakKeyDictionary()


def check_language_model(model: Any) -> None:
    """Refuse everything but a causal language model: a module with a head over a vocabulary that reads left to right.

    Encoder-decoders, bidirectional models and prompt tuning are refused. Every function that is given a language model
    passes here. A model is called once, on two rows of six tokens, in evaluation mode.

    Raises:
        InvalidTypeError: no module (a path, say).
        UnsupportedModelError: any other model.
    """
    check_declared(model)
    inner = unwrap(model)
    said = str(getattr(without_peft(inner), "config", ""))
    if _LATER.get(inner, ("", False))[0] != said or inner not in _LATER:
        _LATER[inner] = said, _reads_later_tokens(inner)
    if _LATER[inner][1]:
        raise _refused(model, "reads later tokens: it is bidirectional")


def check_language_models(models: Iterable[Any]) -> None:
    """Refuse as `check_language_model`, for each model."""
    for model in models:
        check_language_model(model)


def check_declared(model: Any) -> None:
    """Refuse what type, configuration and adapter already tell, without a call of the model."""
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            f"Expected a model of transformers (got {type(model).__name__}); load it with "
            "AutoModelForCausalLM.from_pretrained(...)"
        )
    inner = unwrap(model)
    for adapter in getattr(inner, "peft_config", {}).values():
        check_prompt_learning(adapter)
    config = getattr(without_peft(inner), "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise _refused(model, "is an encoder-decoder")
    head = getattr(inner, "get_output_embeddings", None)  # a module of your own may have none: it is called instead
    if head is not None and head() is None:
        raise UnsupportedModelError(
            f"Expected a causal language model, with a head over its vocabulary (got {type(model).__name__}); load it "
            "with AutoModelForCausalLM"
        )


def check_prompt_learning(config: Any) -> None:
    """Refuse a configuration of peft that trains a prompt: its tokens move the predictions of all others."""
    if getattr(config, "is_prompt_learning", False):
        raise UnsupportedModelError(
            f"Expected an adapter on a model's layers, such as LoRA (got {type(config).__name__}, which tunes a "
            "prompt: its virtual tokens move the positions of all others, and nothing is unlearned in the weights)"
        )


def _refused(model: nn.Module, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Expected a causal language model, which predicts each token from those before it (got "
        f"{type(without_peft(unwrap(model))).__name__}, which {why}); load one with AutoModelForCausalLM"
    )


@torch.no_grad()
def _reads_later_tokens(model: Any) -> bool:
    """Return whether the last three of six tokens change the logits before them."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    size = getattr(embeddings, "num_embeddings", None) or 2
    ids = (torch.arange(6, device=model_device(model)) % size).repeat(2, 1)
    ids[1, 3:] = torch.tensor([2, 1, 0]) % size
    with evaluating(model):
        try:
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        except (
            RuntimeError,
            TypeError,
            ValueError,
            IndexError,
            KeyError,
            AttributeError,
            NotImplementedError,
        ) as error:
            raise UnsupportedModelError(
                "Expected a language model that is called with 'input_ids' and 'attention_mask' (got "
                f"{type(error).__name__} from {type(model).__name__}: {' '.join(str(error).split())[:200]})"
            ) from error
    logits = getattr(out, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:2] != ids.shape:
        got = type(out).__name__ if not isinstance(logits, Tensor) else f"logits {tuple(logits.shape)}"
        raise UnsupportedModelError(f"Expected a language model that returns logits per token (got {got})")
    kinds = {logits.dtype, *(p.dtype for p in model.parameters())}
    rounding = _ROUNDING if kinds <= {torch.float32, torch.float64} else _HALF_ROUNDING
    before = logits[:, :3].double()
    spread = before.amax() - before.amin()
    return bool((before[0] - before[1]).abs().amax() > rounding * spread)
