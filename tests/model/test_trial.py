"""A trial measures the divergence of rounded weights, and leaves the model as it was."""

import pytest
import torch

from slmquant.core.affine import Grid
from slmquant.model.computing.modes import FLOAT32
from slmquant.model.running.trial import Trial, stored_weight
from slmquant.testing.tiny import VOCABULARY, tiny

WINDOWS = torch.randint(VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj", "model.embed_tokens"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_divergence_is_that_of_the_definition(name: str, tied: bool) -> None:
    model = tiny("llama", tie_word_embeddings=tied).eval()
    trial = Trial(model, WINDOWS, FLOAT32)
    rounded = Grid(bits=3, group_size=8).quantize(stored_weight(model, name).detach())
    found = trial.divergence({name: rounded})

    with torch.no_grad():
        before = model(WINDOWS).logits[:, :-1].log_softmax(-1)
        stored_weight(model, name).copy_(rounded.dequantize())
        after = model(WINDOWS).logits[:, :-1].log_softmax(-1)
    expected = (before.exp() * (before - after)).sum(-1).mean(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_nothing_rounded_is_nothing_measured_and_weights_come_back() -> None:
    model = tiny("llama").eval()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trial = Trial(model, WINDOWS, FLOAT32)
    name = "model.layers.0.mlp.up_proj"
    trial.divergence({name: Grid(bits=2, group_size=8).quantize(stored_weight(model, name).detach())})

    assert float(trial.divergence({}).abs().max()) < 1e-6
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
