"""Names parse back, other spellings reach the same scheme, unreadable ones are answered with an example."""

import itertools

import pytest

from slmquant.errors import SchemeError
from slmquant.schemes import EXAMPLES, KvSpec, PerGroup, PerTensor, Scheme, parse

ODD = ["FP8A16-tensor", "W4AFP8E5M2g64", "MXFP4AMXFP8", "NF4A8KV4g64E8", "FP4A8g32-dq", "Q4_KKV8E6"]
ODD += ["FP8KVFP8E8-static"]
GRID = [
    f"W{w}A{a}{kv}{g}{e}{tensor}{sym}{static}"
    for w, a, kv, g, e, tensor, sym, static in itertools.product(
        (2, 4, 8, 16),
        (4, 8, 16),
        ("", "KV4"),
        ("", "g64"),
        ("", "E8"),
        ("", "-tensor"),
        ("", "-asym"),
        ("", "-static"),
    )
    if not (g and tensor) and not (static and a == 16) and not (w == 16 and not e and (g or tensor or sym))
]


@pytest.mark.parametrize("name", [*GRID, *EXAMPLES, "W16A16", "NF4", "IQ2_XXS", "Q8_0", "W4A4KV4g128-asym", *ODD])
def test_canonical_names_round_trip(name: str) -> None:
    assert str(parse(name)) == name
    assert parse(str(parse(name))) == parse(name)


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("w4a16G64", "W4A16g64"),
        ("W4A16g64-sym", "W4A16g64"),
        (" W8A8 ", "W8A8"),
        ("W4A16KV16", "W4A16"),
        ("nvfp4", "NVFP4"),
        ("q4_k_m", "Q4_K_M"),
        ("W4A16E16", "W4A16"),
        ("FP8AFP8", "FP8"),
        ("FP8E4M3", "FP8"),
        ("NF4A16g64", "NF4g64"),
        ("FP6E3M2g64", "FP6g64"),
        ("mxfp4a16", "MXFP4A16"),
        ("W4AFP8G64", "W4AFP8g64"),
        ("q4_ka16", "Q4_K"),
        ("W4A16KV4C", "W4A16KV4c"),
    ],
)
def test_other_spellings_are_read(spelling: str, canonical: str) -> None:
    assert str(parse(spelling)) == canonical


def test_parts_mean_what_they_say() -> None:
    scheme = parse("W4A8g128E8-asym-static")

    assert scheme.weights is not None
    assert scheme.weights.format.bits == 4
    assert not scheme.weights.format.symmetric
    assert scheme.weights.granularity == PerGroup(128)
    assert scheme.activations is not None
    assert scheme.activations.static
    assert scheme.embeddings is not None
    assert scheme.embeddings.format.bits == 8
    assert scheme.embeddings.granularity == PerGroup(128)
    tensor = parse("W8A8-tensor").weights
    assert tensor is not None
    assert tensor.granularity == PerTensor()


@pytest.mark.parametrize(
    ("name", "weights", "activations"),
    [
        ("FP8", "FP8", "FP8"),
        ("FP8E5M2", "FP8E5M2", "FP8E5M2"),
        ("FP8A16", "FP8", None),
        ("MXFP4", "MXFP4", "MXFP4"),
        ("MXFP4AMXFP8", "MXFP4", "MXFP8"),
        ("NVFP4A16", "NVFP4", None),
        ("NF4g64", "NF4", None),
        ("FP6g64", "FP6", None),
        ("W4AFP8g64", "W4", "FP8"),
        ("W1.58A8", "W1.58", "INT"),
        ("Q4_K", "Q4_K", None),
    ],
)
def test_a_formats_name_says_what_is_usual_for_it(name: str, weights: str, activations: str | None) -> None:
    scheme = parse(name)

    assert scheme.weights is not None
    assert scheme.weights.format.name == weights
    assert (scheme.activations.format if scheme.activations else None) == activations


def test_blocks_are_part_of_a_format() -> None:
    for name, size in (("MXFP4", 32), ("MXINT8", 32), ("NVFP4", 16), ("Q4_K", 32), ("Q6_K", 16), ("Q8_0", 32)):
        weights = parse(name).weights
        assert weights is not None
        assert weights.granularity == PerGroup(size)


def test_embeddings_beside_a_format_are_integers_in_its_groups_and_ggufs_beside_ggufs() -> None:
    for name, embedding, size in (("NF4g64E8", "W8", 64), ("MXFP4A16E8", "W8", 32), ("Q4_KE6", "Q6_K", 16)):
        embeddings = parse(name).embeddings
        assert embeddings is not None
        assert embeddings.format.name == embedding
        assert embeddings.granularity == PerGroup(size)


@pytest.mark.parametrize(
    ("name", "kv"),
    [("W16A16KV4", KvSpec(4)), ("W4A16KV2c", KvSpec.kivi(2)), ("FP8KVFP8", KvSpec(8, floating=True)), ("FP8", None)],
)
def test_the_cache_has_a_part_of_its_own(name: str, kv: KvSpec | None) -> None:
    assert parse(name).kv == kv


def test_sixteen_bits_everywhere_is_full_precision() -> None:
    assert parse("W16A16") == Scheme()
    assert parse("W16A16").is_full_precision
    assert not parse("W16A8").is_full_precision


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("4bit", "expected e.g. 'W4A16g64'"),
        ("W4", "expected e.g."),
        ("W1A16", "1-bit integers are not supported"),
        ("W9A16", "9-bit integers"),
        ("W4A16g1", "group size 1 is too small"),
        ("W4A16g64-tensor", "drop one of the two"),
        ("W16A16g64", "leaves them in 16 bits"),
        ("W4A16-static", "write e.g. 'W8A8-static'"),
        ("W4A12", "12-bit activations"),
        ("W4A16KV1", "1-bit KV cache"),
        ("NVFP4g64", "fixed group size"),
        ("Q4_K-tensor", "fixed group size"),
        ("W1.5A16", "W1.58 for ternary"),
        ("FP8-asym", "only integers have"),
        ("NF4-dq", "write e.g. 'NF4g64-dq'"),
        ("W4A16g64-dq", "write e.g. 'NF4g64-dq'"),
        ("MXFP4-static", "computes the scales of its blocks at run time"),
        ("FP8A16-static", "write e.g. 'W8A8-static'"),
        ("W4AINTg64", "how many bits"),
        ("Q4_KE7", "GGUF has no 7-bit type"),
        ("Q2_0", "expected e.g."),
    ],
)
def test_unreadable_names_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        parse(name)
