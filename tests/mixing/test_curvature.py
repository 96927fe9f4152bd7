"""The predicted divergence of a small error is the divergence that it causes."""

import pytest
import torch

from slmquant.mixing.curvature import curvatures
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.progress import Silent
from slmquant.testing.tiny import VOCABULARY, tiny

TOKENS = 4096


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"])
def test_a_single_channel_costs_what_was_predicted(name: str) -> None:
    """Windows of one token and an error of one channel, where nothing is neglected but higher orders."""
    model = tiny("llama").double()
    windows = torch.randint(VOCABULARY, (TOKENS, 1), generator=torch.Generator().manual_seed(0))
    curvature = curvatures(model, discover(model), windows, Silent())[name]
    weight = weight_at(model, name)
    error = torch.zeros_like(weight)
    error[2] = 1e-3 * torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        before = model(windows).logits.log_softmax(-1)
        weight += error
        after = model(windows).logits.log_softmax(-1)
    measured = float((before.exp() * (before - after)).sum(-1).mean())

    assert curvature.effect(error.float()).cost == pytest.approx(measured, rel=0.15)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny("llama")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    curvatures(model, discover(model), torch.arange(16).view(2, 8), Silent())

    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
