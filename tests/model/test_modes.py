"""Attention in bfloat16 is what it would be with inputs cast by hand; outside the context nothing changes."""

import pytest
import torch
from torch.nn import functional as F  # as every torch program calls it

from slmquant.model.computing.modes import MODES, attending_in, mode_of
from slmquant.model.running.output_head import OutputHead
from slmquant.store.record import ComputeDtype
from slmquant.testing.tiny import tiny

States = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def states() -> States:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 6, 8, generator=generator)
    return query, key, value


@pytest.mark.parametrize("masked", ["no", "bool", "additive"])
def test_attention_takes_bfloat16_and_returns_float32(states: States, masked: str) -> None:
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    added = torch.zeros(6, 6).masked_fill(~seen, torch.finfo(torch.float32).min)
    mask = {"no": None, "bool": seen, "additive": added}[masked]
    with attending_in(torch.bfloat16):
        found = F.scaled_dot_product_attention(*states, attn_mask=mask, scale=0.3)
    query, key, value = (state.bfloat16() for state in states)
    boolean = None if masked == "no" else seen
    by_hand = F.scaled_dot_product_attention(query, key, value, attn_mask=boolean, scale=0.3).float()

    assert found.dtype == torch.float32
    assert torch.allclose(found, by_hand, atol=0.01)
    assert not torch.equal(found, F.scaled_dot_product_attention(*states, attn_mask=mask, scale=0.3))


def test_a_fully_masked_row_stays_finite(states: States) -> None:
    mask = torch.full((6, 6), torch.finfo(torch.float32).min)
    with attending_in(torch.bfloat16):
        assert F.scaled_dot_product_attention(*states, attn_mask=mask).isfinite().all()


def test_float32_changes_nothing(states: States) -> None:
    with attending_in(torch.float32):
        inside = F.scaled_dot_product_attention(*states)

    assert torch.equal(inside, F.scaled_dot_product_attention(*states))


@pytest.mark.parametrize("name", list(MODES))
def test_every_mode_is_close_to_float32(name: ComputeDtype) -> None:
    model, mode = tiny("llama"), MODES[name]
    ids = torch.arange(12)[None]
    exact = OutputHead(model).logits(OutputHead(model).hidden(ids)[0])
    head = OutputHead(model, dtype=mode.head)
    with attending_in(mode.attention):
        logits = head.logits(head.hidden(ids)[0])

    assert logits.dtype == torch.float32
    assert torch.allclose(logits, exact, atol=0.02 * float(exact.abs().max()))


def test_a_dtype_of_linears_has_a_mode() -> None:
    assert mode_of(torch.bfloat16).name == "bfloat16"
    assert mode_of(torch.float32).name == "float32"
