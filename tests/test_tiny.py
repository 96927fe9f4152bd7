"""Tiny models are the same whenever they are made."""

import pytest
import torch

from slmquant.testing.tiny import ARCHITECTURES, tiny


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_seed_gives_the_same_weights(architecture: str) -> None:
    torch.manual_seed(1)
    first = tiny(architecture).state_dict()
    torch.manual_seed(2)
    second = tiny(architecture).state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)
