"""Decisions: which candidates they are about, and for which models."""

import pytest

from slmquant.principles.common.decisions import Candidates, Decision
from slmquant.schemes import Scheme, parse
from slmquant.schemes.scheme import gguf_spec
from tests.invented import MODEL


@pytest.mark.parametrize(
    ("candidates", "among", "not_among"),
    [
        (Candidates(methods=("gptq",)), ["gptq/W4A16", "awq+gptq/W8A8"], ["gptq_mse/W4A16", "rtn/W4A16"]),
        (Candidates(without=("quarot",)), ["rtn/W4A4"], ["quarot/W4A4", "quarot+hqq/W4A4"]),
        (Candidates(weights=(2, 4)), ["rtn/W4A16", "rtn/W3A16g64", "rtn/Q4_0"], ["rtn/W8A16", "rtn/W16A8"]),
        (Candidates(activations=(8, 8)), ["rtn/W8A8", "rtn/FP8"], ["rtn/W8A16", "rtn/W4A4"]),
        (Candidates(activations=(16, 16)), ["rtn/W8A16"], ["rtn/W8A8"]),
        (Candidates(cache=(2, 4)), ["rtn/W4A16KV4"], ["rtn/W4A16", "rtn/W4A16KV8"]),
        (Candidates(embeddings=(16, 16)), ["rtn/W4A16g64"], ["rtn/W4A16g64E8"]),
        (Candidates(grouped=False), ["rtn/W4A16"], ["rtn/W4A16g64", "rtn/Q4_0", "rtn/W16A8"]),
        (Candidates(grouped=True), ["rtn/W4A16g64", "rtn/Q4_0"], ["rtn/W4A16"]),
        (Candidates(symmetric=False), ["rtn/W4A16g64-asym", "rtn/Q4_1"], ["rtn/W4A16g64", "rtn/Q4_0"]),
        (Candidates(schemes=("Q4_0_M",)), ["rtn/Q4_0_M"], ["rtn/Q4_0", "rtn/Q4_0_S"]),
        (Candidates(methods=("rtn",), weights=(4, 4)), ["rtn/W4A16"], ["rtn/W8A16", "gptq/W4A16"]),
        (Candidates(), ["rtn/W4A16", "none/W16A16"], []),
    ],
)
def test_candidates_have_every_property(candidates: Candidates, among: list[str], not_among: list[str]) -> None:
    def included(name: str) -> bool:
        method, scheme = name.split("/")
        return candidates.include(method, parse(scheme))

    assert [name for name in among if not included(name)] == []
    assert [name for name in not_among if included(name)] == []


def test_embeddings_of_a_mixture_given_weight_by_weight_are_unknown() -> None:
    mixture = Scheme.of_table({"embed": gguf_spec("Q8_0"), "q": gguf_spec("Q4_0"), "k": gguf_spec("Q4_0")})

    assert Candidates(weights=(4, 4)).include("rtn", mixture)
    assert not Candidates(embeddings=(16, 16)).include("rtn", mixture)
    assert not Candidates(embeddings=(8, 8)).include("rtn", mixture)


def test_candidates_are_named_in_words() -> None:
    candidates = Candidates(methods=("rtn", "gptq"), weights=(2, 4), activations=(8, 8), grouped=False, symmetric=True)

    assert (
        str(candidates)
        == "rtn, gptq; weights in 2 to 4 bits; activations in 8 bits; a scale for each row; no zero points"
    )
    assert str(Candidates()) == "all"
    assert str(Candidates(without=("quarot",), schemes=("Q4_0",))) == "Q4_0; all but quarot"


def test_a_decision_may_depend_on_the_share_of_embeddings() -> None:
    decision = Decision("refuse", Candidates(embeddings=(16, 16)), "they are large", embedding_share=(0.2, 1.0))

    assert decision.applies_to(MODEL)
    assert not decision.applies_to(MODEL.model_copy(update={"embedding_share": 0.1}))
    assert not decision.applies_to(None)
    assert Decision("note", Candidates(), "of all").applies_to(None)
