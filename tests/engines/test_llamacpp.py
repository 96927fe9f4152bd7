"""llama.cpp computes what torch computes with the same weights, on every architecture that a GGUF file is written for.

Two bounds, both measured. With float32 weights nothing differs but the float16 of llama.cpp's key-value cache: a mean
divergence of 5e-8 to 8e-7 was seen. With integer blocks llama.cpp also rounds activations, to 8 bits in blocks of 32:
5e-5 to 3e-4 was seen. That the weights are the very same is tested beside the format.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from slmquant.engines.common.contract import OpenOptions, Session
from slmquant.engines.llamacpp import ENGINE
from slmquant.errors import ModelError, RefusedError
from slmquant.formats.gguf.proof import prove
from slmquant.formats.gguf.writer import FORMAT, Gguf
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.schemes.mixtures import MIXTURES
from slmquant.testing.tiny import VOCABULARY
from tests.formats.gguf_models import MODELS, export, quantized, tokenizer
from tests.narrowed import present

pytestmark = pytest.mark.engine

pytest.importorskip("cyllama", reason="cyllama is not installed; pip install slmquant[llamacpp]")

CACHE_KL, ACTIVATIONS_KL = 3e-6, 1e-3
OPTIONS = OpenOptions(threads=1, context=64)


def tokens(made: QuantizedModel, length: int = 20) -> list[int]:
    window = made.model.config.sliding_window if made.model.config.model_type == "mistral" else length
    drawn = torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(1))
    return [int(token) for token in drawn[:window]]


def divergence(made: QuantizedModel, session: Session) -> float:
    """Mean KL divergence of llama.cpp from torch."""
    ids = tokens(made)
    with torch.no_grad():
        reference = made.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    logits = torch.from_numpy(session.feed(ids, every=True)).double().log_softmax(-1)
    return float((reference.exp() * (reference - logits)).sum(-1).mean())


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_is_the_same(tmp_path: Path, name: str) -> None:
    made = quantized(name)
    Gguf("F32").write(export(made), tmp_path / "model.gguf")

    session = ENGINE.open(tmp_path / "model.gguf", OPTIONS)

    assert session.vocab == VOCABULARY
    assert divergence(made, session) < CACHE_KL
    session.close()


def test_what_it_chooses_is_the_most_probable_token_of_the_logits(tmp_path: Path) -> None:
    made = quantized("llama")
    Gguf("F32").write(export(made), tmp_path / "model.gguf")
    session = ENGINE.open(tmp_path / "model.gguf", OPTIONS)
    first, *others = tokens(made)

    chosen = [session.choose([first]), *(session.choose([token]) for token in others)]
    session.reset()
    logits = session.feed([first, *others], every=True)

    assert chosen == logits.argmax(axis=1).tolist()
    session.close()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("llama", "W4A16g32E8"),
        ("llama", "W4A16g32-asym"),
        ("llama", "Q5_1"),
        ("llama", "IQ4_NLE4"),
        ("llama", "MXFP4A16"),
        ("qwen3", "W8A16"),
        ("gemma3_text", "W5A16g32"),
        ("phi3", "W4A16g32"),
        ("gpt2", "W4A16g32E8"),
        ("gpt_neox", "W4A16"),
    ],
)
def test_integer_blocks_differ_by_rounded_activations_alone(tmp_path: Path, name: str, scheme: str) -> None:
    made = quantized(name, "rtn", scheme)
    FORMAT.write(export(made), tmp_path / "model.gguf")

    session = ENGINE.open(tmp_path / "model.gguf", OPTIONS)

    assert divergence(made, session) < ACTIVATIONS_KL
    session.close()


def test_super_blocks_are_computed_with(tmp_path: Path) -> None:
    for scheme in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XSE4", "IQ3_SE3", "IQ3_XXS", "IQ2_S"):
        made = quantized("llama", "rtn", scheme, hidden_size=256, intermediate_size=256, num_attention_heads=8,
                         num_key_value_heads=4)  # fmt: skip
        FORMAT.write(export(made), tmp_path / "model.gguf")
        session = ENGINE.open(tmp_path / "model.gguf", OPTIONS)
        assert divergence(made, session) < ACTIVATIONS_KL, scheme
        session.close()


def test_a_type_that_the_wheel_lacks_is_told_by_the_wheel(tmp_path: Path) -> None:
    """As a file of a newer llama.cpp would be: the number of a tensor's type is one that does not exist yet."""
    path = tmp_path / "model.gguf"
    FORMAT.write(export(quantized("llama")), path)
    octets, name = bytearray(path.read_bytes()), b"blk.0.attn_q.weight"
    place = octets.rindex(name) + len(name) + 4 + 2 * 8  # behind the number of dimensions, and two of them
    octets[place : place + 4] = (99).to_bytes(4, "little")
    path.write_bytes(octets)

    with pytest.raises(ModelError, match="invalid ggml type 99"):
        ENGINE.open(path, OPTIONS)
    with pytest.raises(RefusedError, match=r"lacks a type of the file .*invalid ggml type 99.*use other types"):
        prove(path, tokenizer(), VOCABULARY, accept=True)


@pytest.mark.parametrize("scheme", [name for name, mixture in MIXTURES.items() if mixture.of_llama_cpp])
@pytest.mark.parametrize("name", ["llama", "llama-untied", "gpt2", "phi3"])
def test_mixtures_have_the_types_that_llama_cpp_deals_out(tmp_path: Path, name: str, scheme: str) -> None:
    """Beside its own quantizer, on ten blocks with rows of 96 and, where a network is gated, of 256."""
    from cyllama.llama import llama_cpp

    deep: dict[str, Any] = {"n_layer": 10} if name == "gpt2" else {"num_hidden_layers": 10, "intermediate_size": 256}
    Gguf("F32").write(export(quantized(name, **deep)), tmp_path / "full.gguf")
    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype = int(gguf.LlamaFileType[f"MOSTLY_{scheme}"])
    llama_cpp.model_quantize(str(tmp_path / "full.gguf"), str(tmp_path / "theirs.gguf"), parameters)
    made = quantized(name, "rtn", scheme, **deep)
    FORMAT.write(export(made), tmp_path / "ours.gguf")

    theirs, ours = (gguf.GGUFReader(tmp_path / f"{who}.gguf") for who in ("theirs", "ours"))
    types = [{t.name: t.tensor_type.name for t in reader.tensors} for reader in (ours, theirs)]

    assert types[0] == types[1] | {name: "F16" for name in types[1] if name == "position_embd.weight"}
    file_types = [present(reader.get_field("general.file_type")).contents() for reader in (ours, theirs)]
    assert file_types[0] == file_types[1]
    session = ENGINE.open(tmp_path / "ours.gguf", OPTIONS)
    assert divergence(made, session) < ACTIVATIONS_KL
    session.close()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_our_own_mixtures_are_of_types_that_processors_are_fast_at(tmp_path: Path, name: str) -> None:
    made = quantized(name, "gptq_mse", "Q4_0_M")
    FORMAT.write(export(made), tmp_path / "model.gguf")

    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    elements: Counter[str] = Counter()
    for tensor in reader.tensors:
        if len(tensor.shape) > 1 and tensor.name != "position_embd.weight":
            elements[tensor.tensor_type.name] += int(tensor.n_elements)

    assert elements.keys() == {"Q4_0", "Q8_0"}
    most = gguf.LlamaFileType[f"MOSTLY_{max(elements, key=elements.__getitem__)}"]
    assert present(reader.get_field("general.file_type")).contents() == most
    session = ENGINE.open(tmp_path / "model.gguf", OPTIONS)
    assert divergence(made, session) < ACTIVATIONS_KL
    session.close()


def test_long_feeds_are_cut_into_batches(tmp_path: Path) -> None:
    made = quantized("llama", max_position_embeddings=2048)
    Gguf("F32").write(export(made), tmp_path / "model.gguf")
    session = ENGINE.open(tmp_path / "model.gguf", OpenOptions(threads=1, context=1200))
    drawn = torch.randint(0, VOCABULARY, (1100,), generator=torch.Generator().manual_seed(2))

    logits = session.feed(drawn.tolist(), every=True)
    session.reset()
    last = session.feed(drawn.tolist())

    with torch.no_grad():
        reference = made.model(drawn[None]).logits[0]
    assert float((torch.from_numpy(logits) - reference).abs().max()) < 0.05
    np.testing.assert_allclose(last[0], logits[-1], atol=0.02)
    session.close()


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    Gguf("F32").write(export(quantized("llama")), path)
    whole = path.read_bytes()
    renamed = whole.replace(b"llama", b"lamma")

    for damaged, said in ((whole[:-300], "model.gguf"), (b"nothing", "model.gguf"), (renamed, "lamma")):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=said) as raised:
            ENGINE.open(path, OPTIONS)
        assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="is not a file"):
        ENGINE.open(tmp_path / "absent.gguf", OPTIONS)


def test_the_engine_says_what_it_is() -> None:
    status = ENGINE.status()

    assert status.usable
    assert "cyllama" in str(status.version)
    assert "llama.cpp b" in str(status.version)
    assert status.instructions
    assert ENGINE.formats == ("gguf",)
