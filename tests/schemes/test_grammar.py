"""Names parse back, other spellings reach the same scheme, unreadable ones are answered with an example."""

import itertools

import pytest

from slmquant.errors import SchemeError
from slmquant.schemes import EXAMPLES, PerGroup, PerTensor, Scheme, parse

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


@pytest.mark.parametrize("name", [*GRID, *EXAMPLES, "W16A16", "NF4", "IQ2_XXS", "Q8_0", "W4A4KV4g128-asym"])
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
    ],
)
def test_unreadable_names_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        parse(name)
