"""A GGUF file becomes the model that was written into it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from slmquant.errors import ModelError
from slmquant.model.sources.load import load
from slmquant.model.sources.read_gguf import file_type, read_gguf
from tests.narrowed import present

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def original() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.eval()
    return model


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k in the order in which llama.cpp rotates them."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write(model: LlamaForCausalLM, path: Path, kind: gguf.GGMLQuantizationType, pre: str = "gpt-2") -> Path:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(present(config.num_key_value_heads))
    writer.add_rope_dimension_count(present(config.head_dim))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    bytes_as_text = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_token_list(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_as_text, "ab"])
    writer.add_token_types([3, 3, 3, *[1] * (len(bytes_as_text) + 1)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(_CHAT)

    def put(name: str, weight: torch.Tensor) -> None:
        values = weight.detach().numpy().astype(np.float32)
        chosen = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, chosen), raw_dtype=chosen)

    put("token_embd.weight", model.model.embed_tokens.weight)
    put("output_norm.weight", model.model.norm.weight)
    for number, block in enumerate(model.model.layers):
        for ours, theirs in _NAMES.items():
            weight = block.get_submodule(ours).get_parameter("weight")
            if ours in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = interleaved(weight, weight.shape[0] // config.head_dim)
            put(f"blk.{number}.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_float_file_gives_the_same_logits(tmp_path: Path) -> None:
    model = original()

    read, _ = read_gguf(write(model, tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.F32))

    tokens = torch.arange(40)[None]
    with torch.inference_mode():
        assert torch.allclose(read(tokens).logits, model(tokens).logits, atol=1e-6)
    assert read.get_output_embeddings().weight is read.get_input_embeddings().weight


def test_a_quantized_file_gives_its_dequantized_weights(tmp_path: Path) -> None:
    model, kind = original(), gguf.GGMLQuantizationType.Q4_1
    path = write(model, tmp_path / "tiny.gguf", kind)

    read, _ = read_gguf(path)

    up = model.model.layers[1].mlp.up_proj.weight.detach().numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(up, kind), kind)
    found = read.get_parameter("model.layers.1.mlp.up_proj.weight").detach().numpy()
    assert np.array_equal(found, expected)
    assert file_type(path) == "Q4_1"


def test_the_tokenizer_and_its_chat_template_come_along(tmp_path: Path) -> None:
    _, tokenizer = read_gguf(write(original(), tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.F32))

    assert tokenizer.decode(tokenizer("Hello, été\n").input_ids) == "Hello, été\n"
    assert tokenizer.chat_template == _CHAT


def test_smollm_splits_off_digits_and_the_others_do_not(tmp_path: Path) -> None:
    pieces = {}
    for pre in ("smollm", "gpt-2"):
        path = write(original(), tmp_path / f"{pre}.gguf", gguf.GGMLQuantizationType.F32, pre=pre)
        _, tokenizer = read_gguf(path)
        splitter = tokenizer.backend_tokenizer.pre_tokenizer
        pieces[pre] = [text for text, _ in splitter.pre_tokenize_str("in  2024")]

    assert pieces["smollm"] == ["in", "ĠĠ", "2", "0", "2", "4"]
    assert pieces["gpt-2"] == ["in", "Ġ", "Ġ2024"]


def test_a_file_is_converted_once_and_says_that_it_lies_on_a_grid(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(original(), tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.Q4_1)

    loaded = load(str(path))
    monkeypatch.setattr("slmquant.model.sources.importing.read_gguf", lambda _path: pytest.fail("converted again"))

    assert loaded.card.provenance == "dequantized from GGUF Q4_1, on-grid"
    assert load(str(path)).sha256 == loaded.sha256
    assert loaded.folder.is_relative_to(empty_cache)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(original(), tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.F32)
    path.write_bytes(path.read_bytes()[:-2000])

    with pytest.raises(ModelError, match=r"tiny\.gguf is truncated"):
        read_gguf(path)
