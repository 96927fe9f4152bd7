"""A GGUF source of every architecture is the model that was written, to the last tensor, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from slmquant.errors import ModelError
from slmquant.formats.gguf.writer import Gguf
from slmquant.model.sources.read_gguf import read_gguf
from slmquant.testing.tiny import VOCABULARY
from tests.formats.gguf_models import MODELS, export, quantized, tokenizer
from tests.narrowed import present

pytestmark = pytest.mark.usefixtures("known_relations", "known_tokenizers")

_BIG = {"hidden_size": 512, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256}
_GEMMA = {**_BIG, "query_pre_attn_scalar": 256, "sliding_window": 32, "max_position_embeddings": 128}
SIZES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None, "head_dim": 128},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "qwen3": {"head_dim": 128},
    "llama-untied": {"rms_norm_eps": 1e-3, "max_position_embeddings": 96},
}
"""Sizes and windows unlike the defaults of a reader, so that one that is not read shows."""


@pytest.mark.parametrize("name", MODELS)
def test_a_source_of_every_architecture_is_the_model_that_was_written(tmp_path: Path, name: str) -> None:
    made = quantized(name, **SIZES.get(name, {}))
    Gguf(dense="F32").write(export(made), tmp_path / "x.gguf")

    model, read = read_gguf(tmp_path / "x.gguf")

    ids = torch.randint(0, VOCABULARY, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = made.model(ids).logits, model(ids).logits
    assert float((found - expected).abs().max() / expected.std()) < 1e-3
    for text in ("ab a <s>é", "  a\nb</s> 12"):
        assert read(text).input_ids == tokenizer()(text).input_ids


def written(path: Path, name: str = "llama", drop: str = "", **keys: Any) -> Path:
    """An export with further keys, and a tensor more or less."""
    Gguf(dense="F32").write(export(quantized(name)), path)
    reader = gguf.GGUFReader(path)
    other = path.with_name("other.gguf")
    writer = gguf.GGUFWriter(other, str(present(reader.get_field("general.architecture")).contents()))
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture" or field.name in keys:
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)
    for key, value in keys.items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, int(str(value)))
    for tensor in reader.tensors:
        if tensor.name != drop and tensor.name not in keys:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return other


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"blk.0.attn_q_norm.weight": np.ones(16, dtype=np.float32)}, "holds 1 tensors.*blk.0.attn_q_norm.weight"),
        ({"rope_factors_long.weight": np.ones(8, dtype=np.float32)}, "rope_factors_long.weight"),
        ({"rope_freqs.weight": np.linspace(1, 3, 8).astype(np.float32)}, "differs from Llama 3"),
        ({"llama.attention.sliding_window": 16}, "attention.sliding_window is 16"),
        ({"llama.expert_count": 4}, "expert_count is 4"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "longrope"),
        ({"llama.logit_scale": 0.5}, "logit_scale is 0.5"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "rule 'deepseek-llm'"),
        ({"tokenizer.ggml.model": "bert"}, "kind 'bert'"),
        ({"llama.block_count": 3}, "lacks blk.2.attn_q.weight"),
        ({"llama.block_count": 1}, "holds 9 tensors"),
        ({"llama.embedding_length": None}, "embedding_length' is missing"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        read_gguf(written(tmp_path / "x.gguf", **keys))


def test_an_unchanged_copy_is_read(tmp_path: Path) -> None:
    model, _ = read_gguf(written(tmp_path / "x.gguf"))

    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks blk\.1\.ffn_up\.weight"):
        read_gguf(written(tmp_path / "x.gguf", drop="blk.1.ffn_up.weight"))


@pytest.mark.engine
@pytest.mark.parametrize("name", ["llama-llama3", "llama-yarn", "llama-linear", "llama-bias", "qwen2", "gemma3_text"])
def test_what_is_read_is_what_llama_cpp_computes(tmp_path: Path, name: str) -> None:
    pytest.importorskip("cyllama")
    from slmquant import engines
    from slmquant.engines.common.contract import OpenOptions

    path = tmp_path / "x.gguf"
    Gguf(dense="F32").write(export(quantized(name, **SIZES.get(name, {}))), path)
    ids = torch.randint(3, VOCABULARY, (60,), generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        ours = read_gguf(path)[0](ids[None]).logits[0]
    session = engines.load("llamacpp").open(path, OpenOptions(1, 64))
    theirs = torch.from_numpy(session.feed(ids.tolist(), every=True))

    assert float((ours - theirs).abs().max() / ours.std()) < 0.02
