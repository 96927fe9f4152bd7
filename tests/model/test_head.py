"""The output head: logits that a block of memory is used for again and again."""

from __future__ import annotations

import pytest
import torch

from slmquant.model.running.output_head import OutputHead
from slmquant.testing.tiny import ARCHITECTURES, tiny


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_the_model_whatever_was_computed_before(name: str) -> None:
    model = tiny(name)
    head = OutputHead(model)
    ids = torch.randint(model.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    hidden = head.hidden(ids)
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    for rows in (7, 24, 3):  # a block that grows, then one that is larger than what is asked for
        for window in range(2):
            found = head.logits(hidden[window, :rows], again=True)
            assert torch.allclose(found, expected[window, :rows], atol=1e-5)


def test_only_a_block_that_is_wanted_again_is_written_over() -> None:
    model = tiny("llama").float().eval()
    head, states = OutputHead(model), torch.randn(2, 4, model.config.hidden_size)
    kept = head.logits(states[0])
    before = kept.clone()
    first = head.logits(states[1], again=True)
    second = head.logits(states[0, :3], again=True)
    assert torch.equal(kept, before)
    assert first.data_ptr() == second.data_ptr()
    assert torch.allclose(second, before[:3], atol=1e-5)
