"""Every weight of a model gets the type that a mixture deals it, whatever the method."""

import pytest

from slmquant.errors import RefusedError
from slmquant.model.computing.grids import grid_of
from slmquant.schemes.numbers import GgufName
from slmquant.schemes.scheme import gguf_spec
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.method_contract import quantized as quantized_as_it_is
from tests.formats.gguf_models import quantized

METHODS = ["rtn", "gptq", "gptq_sequential", "gptaq", "awq", "smoothquant_plus", "kquant", "gptq_mse"]
METHODS += ["autoround", "omniquant"]
WIDE = {"intermediate_size": 256, "num_hidden_layers": 3}  # rows of 96 and 256: only down projections take K-quants


@pytest.mark.parametrize("method", METHODS)
def test_every_method_deals_the_same_types(method: str) -> None:
    made = quantized("llama", method, "Q4_K_M", **WIDE)

    for block in range(3):
        kinds: dict[str, GgufName] = {
            "self_attn.q_proj": "Q5_0",
            "self_attn.v_proj": "Q8_0" if block == 2 else "Q5_0",
            "mlp.up_proj": "Q5_0",
            "mlp.down_proj": "Q6_K" if block == 2 else "Q4_K",
        }
        for linear, kind in kinds.items():
            assert made.weights[f"model.layers.{block}.{linear}"].grid == grid_of(gguf_spec(kind))
    assert made.weights["model.embed_tokens"].grid == grid_of(gguf_spec("Q8_0"))
    assert made.model(calibration_tokens(2)).logits.isfinite().all()


def test_an_embedding_that_is_no_head_is_not_favoured() -> None:
    made = quantized("llama-untied", "rtn", "Q4_K_M")

    assert made.weights["model.embed_tokens"].grid == grid_of(gguf_spec("Q5_0"))
    assert made.weights["lm_head"].grid == grid_of(gguf_spec("Q8_0"))


def test_queries_keys_and_values_in_one_are_values() -> None:
    made = quantized("gpt2", "gptq", "Q4_K_M", n_layer=3)

    assert made.weights["transformer.h.0.attn.c_attn"].grid == grid_of(gguf_spec("Q5_0"))
    assert made.weights["transformer.h.2.attn.c_attn"].grid == grid_of(gguf_spec("Q8_0"))
    assert made.weights["transformer.h.0.attn.c_proj"].grid == grid_of(gguf_spec("Q5_0"))


def test_a_model_whose_linears_gguf_does_not_know_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"knows none of .* use the pure type Q4_K"):
        quantized_as_it_is("rtn", "Q4_K_M", "mamba")


@pytest.mark.parametrize("scheme", ["IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S"])
def test_types_of_llama_cpp_alone_are_refused_for_rows_that_it_cannot_store(scheme: str) -> None:
    with pytest.raises(RefusedError, match=rf"{scheme} does not hold .*q_proj.* 96 inputs .* that fit: Q4_0, .*IQ4_NL"):
        quantized("llama", "rtn", scheme, **WIDE)
