"""A GGUF file becomes a plain folder: the weights that were written into it, tied ones once; bad files are refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from gunlearn.errors import InvalidInputError, MissingExtraError
from gunlearn.llm import encode, plain_folder, unlearn
from tests.llm.tiny import SIZES, tiny

gguf = pytest.importorskip("gguf")
WORDS = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(26)), *(f"{a}{b}" for a in "abc" for b in "abcdefghijk")]
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key map as llama.cpp orders them: the halves of a head's rotation side by side."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def written(path: Path, model: torch.nn.Module, **changes: float) -> Path:
    """A GGUF file of a tiny Llama with tied embeddings, as llama.cpp's converter writes one, in float32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(SIZES["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS[: SIZES["vocab_size"]])
    writer.add_token_merges([f"{word[0]} {word[1]}" for word in WORDS[29 : SIZES["vocab_size"]]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, value in model.state_dict().items():
        array = value.numpy().copy()
        if name.startswith("model.layers."):
            _, _, layer, *inner, _ = name.split(".")
            called = NAMES[".".join(inner)]
            if called in ("attn_q", "attn_k"):
                array = interleaved(array, SIZES["num_attention_heads"] if called == "attn_q" else 1)
            writer.add_tensor(f"blk.{layer}.{called}.weight", array)
        elif name == "model.norm.weight":
            array[0] = changes.get("first_gain", array[0])
            writer.add_tensor("output_norm.weight", array)
        elif name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_folder_has_the_weights_of_the_file(tmp_path: Path) -> None:
    """Bit for bit, the head tied and stored once, and it can be saved again and unlearned from."""
    source = tiny("llama_tied")
    folder = plain_folder(written(tmp_path / "tiny.gguf", source), tmp_path / "plain")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    ids = torch.arange(3, 23)[None]
    assert torch.equal(model(ids).logits, source(ids).logits)
    with safe_open(folder / "model.safetensors", "pt") as stored:
        assert "lm_head.weight" not in stored.keys()  # noqa: SIM118 - not a mapping
    assert tokenizer("abb")["input_ids"][-2:] == [WORDS.index("ab"), WORDS.index("b")]
    model.save_pretrained(tmp_path / "again")
    rows = encode([{"prompt": "ab", "completion": "cde"}, {"prompt": "ac", "completion": "fgh"}], tokenizer)
    unlearn(model, tokenizer, rows[:1], rows[1:], "npo", epochs=1, lr=1e-3, figure_rows=0, use_cpu=True)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    """With the file's name; nothing is left where the folder should have been."""
    whole = written(tmp_path / "tiny.gguf", tiny("llama_tied"))
    cut, text, odd = tmp_path / "cut.gguf", tmp_path / "text.gguf", tmp_path / "odd.gguf"
    cut.write_bytes(whole.read_bytes()[:3000])
    text.write_text("no model at all")
    writer = gguf.GGUFWriter(odd, "an_unknown_architecture")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    broken = written(tmp_path / "broken.gguf", tiny("llama_tied"), first_gain=float("nan"))
    for path, match in (
        (cut, r"that transformers reads \(got .*cut\.gguf"),
        (text, r"that transformers reads \(got .*text\.gguf"),
        (odd, r"that transformers reads \(got .*odd\.gguf"),
        (broken, r"finite weights in .*broken\.gguf"),
        (tmp_path / "none.gguf", "no such file"),
        (tmp_path, "no such file"),
    ):
        with pytest.raises(InvalidInputError, match=match):
            plain_folder(path, tmp_path / "plain")
        assert not list(tmp_path.glob("*plain*"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "notes.txt").write_text("somebody's")
    with pytest.raises(InvalidInputError, match="new or an empty folder"):
        plain_folder(whole, tmp_path / "plain")
    assert (tmp_path / "plain" / "notes.txt").read_text() == "somebody's"


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("gunlearn.llm.model.gguf_file.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"gguf to read .*tiny\.gguf .*pip install"):
        plain_folder(tmp_path / "tiny.gguf", tmp_path / "plain")
