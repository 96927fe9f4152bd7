"""The quantized cache: on every architecture that hands over its keys, alike in parallel and token by token."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.core.hadamard import hadamard
from slmquant.errors import RefusedError, SchemeError
from slmquant.model.compatibility.cache_names import cache_argument
from slmquant.model.computing.kv_cache import CacheRounding, HeadRotation, kv_bits_per_value, quantize_cache_, refusal
from slmquant.model.computing.recent_tokens import Cache, attend_recent
from slmquant.model.sources.load import load
from slmquant.schemes.kv import KvSpec
from slmquant.testing.tiny import ARCHITECTURES, VOCABULARY, tiny

OUTSIDE = {
    name
    for name in ("gpt_neo", "bloom", "falcon", "falcon-alibi", "falcon-new", "mpt", "gptj", "codegen")
    if not hasattr(sys.modules[type(tiny(name)).__module__], "ALL_ATTENTION_FUNCTIONS")
}
"""They compute attention themselves, outside the registry; which do depends on the version of transformers."""

RECURRENT = {"mamba", "mamba2"}
REACHED = [name for name in ARCHITECTURES if name not in OUTSIDE | RECURRENT]


def tokens(count: int = 21, batch: int = 2) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, count), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def quantized(name: str, spec: KvSpec | None) -> PreTrainedModel:
    model = tiny(name)
    quantize_cache_(model, spec)
    return model


class Reversal:
    """An orthogonal map that is easy to see."""

    def apply(self, x: Tensor) -> Tensor:
        return x.flip(-1)


def random_rotation(size: int) -> "Turned":
    generator = torch.Generator().manual_seed(size)
    return Turned(torch.linalg.qr(torch.randn(size, size, dtype=torch.double, generator=generator))[0])


class Turned:
    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.matrix.to(x.dtype)


@pytest.mark.parametrize("name", REACHED)
def test_nothing_rounded_changes_nothing(name: str) -> None:
    assert torch.equal(logits(quantized(name, None), tokens()), logits(tiny(name), tokens()))


@pytest.mark.parametrize("name", REACHED)
def test_eight_bits_hardly_change_logits_and_two_do(name: str) -> None:
    before = logits(tiny(name), tokens())
    specs = (KvSpec(8), KvSpec(8, floating=True), KvSpec(4), KvSpec(2))
    changes = [float((logits(quantized(name, spec), tokens()) - before).norm() / before.norm()) for spec in specs]

    assert 0 < changes[0] < 0.05  # a router may choose another expert
    assert changes[0] < min(changes[1:])
    assert changes[1] < changes[3]
    assert changes[2] < changes[3]
    assert changes[3] > 0.05


@pytest.mark.parametrize("name", sorted(OUTSIDE | RECURRENT))
def test_a_model_that_cannot_be_reached_is_refused_and_left_as_it_was(name: str) -> None:
    model = tiny(name)
    before, state = logits(model, tokens()), copy.deepcopy(model.config.to_dict())
    reason = refusal(model)

    assert reason is not None
    assert ("recurrent state" if name in RECURRENT else "outside transformers' attention registry") in reason
    assert "drop the KV part" in reason
    with pytest.raises(RefusedError, match="drop the KV part"):
        quantize_cache_(model, KvSpec(4))
    assert torch.equal(logits(model, tokens()), before)
    assert model.config.to_dict() == state


def test_cached_latents_are_refused() -> None:
    """DeepSeek's attention goes through the registry, but what it caches is not what it reads."""
    config = AutoConfig.for_model(
        "deepseek_v3",
        vocab_size=VOCABULARY,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=2,
        first_k_dense_replace=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=12,
        kv_lora_rank=12,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        pad_token_id=0,
    )
    reason = refusal(AutoModelForCausalLM.from_config(config))

    assert reason is not None
    assert "latents" in reason


@torch.no_grad()
def one_by_one(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits with a running cache: a prompt, then token after token."""
    cache = DynamicCache(config=model.config)
    steps = [ids[:, :5], *ids[:, 5:].split(1, dim=1)]
    return torch.cat(
        [model(input_ids=step, use_cache=True, **cache_argument(model, cache)).logits for step in steps], dim=1
    )


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3_text", "qwen3", "lfm2", "gpt2", "phi3", "exaone4"])
@pytest.mark.parametrize(
    "spec", [KvSpec(3), KvSpec(4, group_size=4), KvSpec(8, floating=True)], ids=["KV3", "KV4g4", "KVFP8"]
)
def test_a_running_cache_gives_what_a_parallel_pass_gives(name: str, spec: KvSpec) -> None:
    """Sliding windows (8 tokens) slide in these 21; what float32 rounds otherwise may move a code here and there."""
    model, ids = quantized(name, spec), tokens()
    parallel = logits(model, ids)
    effect = (parallel - logits(tiny(name), ids)).norm()

    assert (one_by_one(model, ids) - parallel).norm() < 0.02 * effect


KIVI_SMALL = KvSpec(2, key_tokens=2, group_size=4, recent=4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_decoding_with_recent_tokens_gives_what_a_parallel_pass_gives(name: str, implementation: str) -> None:
    ids = tokens()
    model = tiny(name)
    model.set_attn_implementation(implementation)
    quantize_cache_(model, KIVI_SMALL)
    parallel = logits(model, ids)
    effect = (parallel - logits(tiny(name), ids)).norm()

    assert effect > 0.01 * parallel.norm()
    assert (one_by_one(model, ids) - parallel).norm() < 0.02 * effect


def test_recent_tokens_are_read_as_the_algorithm_of_kivi_says() -> None:
    """Against one query at a time: keys below the last multiple of `recent` and values `recent` back are rounded."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 11, 8, generator=generator).unbind(0)
    rounding, module = CacheRounding(KIVI_SMALL), torch.nn.Module()
    cache = Cache(key, value, *rounding.rounded(key, value))
    found = attend_recent(plain_attention, module, query[..., 3:, :], cache, None, recent=4)

    for position in range(3, 11):
        keys = cache.rounded_key[..., : position // 4 * 4, :], key[..., position // 4 * 4 : position + 1, :]
        old = max(0, position - 4 + 1)
        values = cache.rounded_value[..., :old, :], value[..., old : position + 1, :]
        scores = query[..., position : position + 1, :] @ torch.cat(keys, dim=-2).mT / 8**0.5
        expected = (scores.softmax(-1) @ torch.cat(values, dim=-2)).transpose(1, 2)
        assert torch.allclose(found[:, position - 3], expected[:, 0], atol=1e-6)


def plain_attention(
    _module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
) -> tuple[Tensor, None]:
    scores = query @ key.mT / query.shape[-1] ** 0.5 + mask
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def test_kivi_keeps_128_tokens_in_full_precision() -> None:
    """The published setting: a sequence of 128 tokens is not rounded at all, and longer ones are."""
    model = tiny("llama", max_position_embeddings=512)
    ids = torch.randint(3, VOCABULARY, (1, 200), generator=torch.Generator().manual_seed(3))
    before = logits(model, ids)
    quantize_cache_(model, KvSpec.kivi(2))
    after = logits(model, ids)

    short = tiny("llama", max_position_embeddings=512)
    assert torch.equal(logits(model, ids[:, :128]), logits(short, ids[:, :128]))
    assert torch.allclose(after[:, :128], before[:, :128], atol=1e-5)
    assert not torch.allclose(after[:, 128:], before[:, 128:], atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "gpt_neox"])
def test_rotated_queries_and_keys_change_nothing_but_the_rounding(name: str) -> None:
    model = tiny(name).double()
    before = logits(model, tokens())
    quantize_cache_(model, None, random_rotation)

    assert torch.allclose(logits(model, tokens()), before, atol=1e-10)
    quantize_cache_(model, KvSpec(4), random_rotation)
    rotated = logits(model, tokens())
    quantize_cache_(model, KvSpec(4))
    assert not torch.allclose(rotated, logits(model, tokens()), atol=1e-4)


def test_queries_and_keys_are_rotated_alike_and_values_not() -> None:
    query, key, value = torch.randn(3, 1, 2, 6, 10).unbind(0)
    rounded = CacheRounding(None, Reversal())(query, key, value)

    assert torch.equal(rounded.query, query.flip(-1))
    assert torch.equal(rounded.key, key.flip(-1))
    assert torch.equal(rounded.value, value)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_attention_function_in_use_stays_in_use(implementation: str) -> None:
    model = tiny("llama")
    model.set_attn_implementation(implementation)
    before = logits(model, tokens())
    quantize_cache_(model, None)

    assert model.config._attn_implementation.endswith(implementation)
    assert torch.equal(logits(model, tokens()), before)


def test_quantizing_again_replaces_what_was_there() -> None:
    model = quantized("llama", KvSpec(2))
    quantize_cache_(model, KvSpec(8))

    assert torch.equal(logits(model, tokens()), logits(quantized("llama", KvSpec(8)), tokens()))


def test_a_copy_of_a_quantized_model_rounds_too() -> None:
    model = quantized("llama", KvSpec(2))

    assert torch.equal(logits(copy.deepcopy(model), tokens()), logits(model, tokens()))


def test_masked_tokens_are_not_attended_to() -> None:
    """Left padding, as when prompts of several lengths are generated from together."""
    model, ids = quantized("llama", KvSpec(4)), tokens(9, batch=1)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(13) >= 4).long()[None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found = model(input_ids=padded, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, 4:]

    assert torch.allclose(found, logits(model, ids), atol=1e-5)


def test_no_parameter_or_buffer_is_added() -> None:
    assert quantized("llama", KvSpec(4)).state_dict().keys() == tiny("llama").state_dict().keys()


def test_every_attention_rounds() -> None:
    model = quantized("gemma3_text", KvSpec(4))

    assert sum(isinstance(module, CacheRounding) for module in model.modules()) == 6
    assert not any(isinstance(module, CacheRounding) for module in tiny("gemma3_text").modules())


def test_other_attention_is_refused_by_name() -> None:
    model = tiny("llama")
    model.config._attn_implementation_internal = "flex_attention"

    assert refusal(model) == (
        "the key-value cache cannot be quantized under 'flex_attention' attention; load the model with 'sdpa'"
    )


class TestBitsPerValue:
    def test_none_is_sixteen(self) -> None:
        assert kv_bits_per_value(None, 64) == 16

    def test_scales_and_minima_count(self) -> None:
        assert kv_bits_per_value(KvSpec(4), 64) == 4 + 32 / 64
        assert kv_bits_per_value(KvSpec(4, group_size=32), 64) == 4 + 32 / 32
        assert kv_bits_per_value(KvSpec(8, floating=True), 64) == 8 + 16 / 64
        assert kv_bits_per_value(replace(KvSpec.kivi(2), recent=0), 64) == 3

    def test_recent_tokens_in_full_precision_count(self) -> None:
        """Of 2048 tokens 128 values and, on average, 63.5 keys have 16 bits."""
        keys, values = 63.5 / 2048, 128 / 2048
        expected = ((1 - keys) * 3 + keys * 16 + (1 - values) * 3 + values * 16) / 2
        assert kv_bits_per_value(KvSpec.kivi(2), 64) == pytest.approx(expected)
        assert kv_bits_per_value(KvSpec.kivi(2), 64, context=100) > 9

    def test_a_ragged_last_group_has_a_scale_of_its_own(self) -> None:
        assert kv_bits_per_value(KvSpec(4, group_size=32), 80) == pytest.approx(4 + 3 * 32 / 80)


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 1},
        {"bits": 9},
        {"bits": 4, "floating": True},
        {"bits": 8, "floating": True, "key_tokens": 32},
        {"bits": 4, "group_size": 1},
        {"bits": 4, "recent": -1},
        {"bits": 4, "key_tokens": 32, "recent": 100},
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SchemeError):
        KvSpec(**settings)


@pytest.mark.real_model
def test_a_real_cache_keeps_what_the_literature_says_it_keeps() -> None:
    """Eight bits cost next to nothing, four do; keys per channel, or rotated ones, lose less than keys per token."""
    loaded = load("smollm2-135m-instruct")
    ids = text_tokens(loaded.tokenizer, load_corpus("wikitext2_test").text)[None, :512]
    before = logits(loaded.model, ids).log_softmax(-1)

    def divergence(spec: KvSpec, rotate: Callable[[int], HeadRotation] | None = None) -> float:
        quantize_cache_(loaded.model, spec, rotate)
        after = logits(loaded.model, ids).log_softmax(-1)
        return float((before.exp() * (before - after)).sum(-1).mean())

    four = divergence(KvSpec(4))
    assert divergence(KvSpec(8)) < 0.002 < four < 1
    assert divergence(KvSpec.kivi(4)) < four / 2
    assert divergence(KvSpec(4), hadamard) < four
    assert divergence(KvSpec.kivi(2)) < divergence(replace(KvSpec.kivi(2), recent=0)) / 2 < divergence(KvSpec(2)) / 4
