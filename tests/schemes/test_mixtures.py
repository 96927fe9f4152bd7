"""Mixtures deal types out as llama.cpp's quantizer does; that it does so is tested beside its engine."""

import pytest

from slmquant.errors import SchemeError
from slmquant.schemes import Scheme, parse
from slmquant.schemes.mixtures import MIXTURES, MixtureName


def test_a_mixture_is_its_base_and_its_heads_type_and_names_itself() -> None:
    scheme = parse("q4_k_m")

    assert str(scheme) == "Q4_K_M"
    assert scheme.weights is not None
    assert scheme.embeddings is not None
    assert (scheme.weights.format.name, scheme.embeddings.format.name) == ("Q4_K", "Q6_K")
    assert scheme != parse("Q4_KE6")
    names = {spec.format.name for spec in scheme.weight_specs}
    assert names == {"Q4_K", "Q6_K", "Q5_0", "Q8_0"}


@pytest.mark.parametrize(
    ("name", "favoured"),
    [
        ("Q4_K_S", {0: "Q5_K", 1: "Q5_K", 2: "Q5_K"}),
        ("Q4_K_M", dict.fromkeys((0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29), "Q6_K")),
        ("Q5_K_S", {}),
    ],
)
def test_down_projections_of_thirty_blocks(name: MixtureName, favoured: dict[int, str]) -> None:
    mixture = MIXTURES[name]

    dealt = {block: mixture.type_of("down", 1536, block, 30) for block in range(30)}

    assert dealt == {block: favoured.get(block, mixture.base) for block in range(30)}


def test_our_own_mixtures_are_made_for_rows_of_any_length() -> None:
    small, large = MIXTURES["Q4_0_S"], MIXTURES["Q4_0_M"]

    assert small.types == large.types == ("Q4_0", "Q8_0")
    for row in (576, 1536):
        assert [large.type_of(role, row) for role in ("value", "key", "head", "other")] == ["Q8_0"] * 3 + ["Q4_0"]
        assert small.type_of("down", row, 0, 30) == "Q4_0"
    favoured = [block for block in range(30) if large.type_of("down", 1536, block, 30) == "Q8_0"]
    assert favoured == sorted({*range(30)} - {*range(3, 26, 3)})


def test_rows_of_no_whole_super_blocks_get_another_type() -> None:
    mixture = MIXTURES["Q4_K_M"]

    assert mixture.type_of("other", 576) == "Q5_0"
    assert MIXTURES["Q5_K_S"].type_of("other", 576) == "Q5_1"
    assert mixture.type_of("head", 576) == "Q8_0"
    assert mixture.type_of("head", 512) == "Q6_K"


def test_a_mixture_takes_no_other_part() -> None:
    with pytest.raises(SchemeError, match="cannot read scheme 'Q4_K_ME8'"):
        parse("Q4_K_ME8")
    with pytest.raises(SchemeError, match="takes no W, A, KV or E part"):
        Scheme(weights=parse("Q4_K").weights, special=parse("IQ2_XXS").special)
