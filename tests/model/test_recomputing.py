"""Gradients of blocks that are computed again are bit-identical, and no activations inside blocks are kept."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from slmquant.model.computing.modes import attending_in
from slmquant.model.discovery.relations import discover
from slmquant.model.running.recomputing import recomputing
from slmquant.testing.tiny import VOCABULARY, tiny

WINDOWS = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(5))


def gradients(architecture: str, *, again: bool, dtype: torch.dtype) -> tuple[list[Tensor], int]:
    """Gradients of all parameters, and the number of tensors that the forward pass keeps."""
    model = tiny(architecture).eval()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    blocks = discover(model).blocks if again else ()
    with attending_in(dtype), recomputing(model, blocks, lambda: attending_in(dtype)):
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(input_ids=WINDOWS, use_cache=False).logits.square().mean()
        loss.backward()
    assert all("forward" not in vars(model.get_submodule(name)) for name in blocks)
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], sum(kept)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_bit_identical_and_less_is_kept(architecture: str, dtype: torch.dtype) -> None:
    expected, kept = gradients(architecture, again=False, dtype=dtype)
    found, kept_again = gradients(architecture, again=True, dtype=dtype)

    assert len(found) == len(expected) > 0
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert kept_again < kept / 2
