"""Rotations that stay at run time: where they are put they stay, and they are stored whole."""

import copy

import pytest
import torch
from torch import nn

from slmquant.core.hadamard import hadamard
from slmquant.core.rotation import DenseRotation, random_hadamard, random_orthogonal
from slmquant.errors import RefusedError
from slmquant.model.computing.linear import multiplying_in, replace_linears_
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.rewriting.online_rotations import (
    Online,
    OnlineRotation,
    RotatedKeys,
    attach_,
    decode,
    encode,
    key_rotation,
    stored_bits,
    turns_input,
)
from slmquant.model.rewriting.rescale import scale_link_
from slmquant.model.rewriting.rotate import rotate_input_
from slmquant.testing.tiny import tiny


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 8))


def x() -> torch.Tensor:
    return torch.randn(3, 12, generator=generator())


def test_inputs_and_outputs_are_turned(model: nn.Sequential) -> None:
    R = random_hadamard(12, generator())
    expected = model[1](R.undo(model[0](R.apply(x()))))
    attach_(model, [OnlineRotation("0", "input", R), OnlineRotation("0", "output", R, undo=True)])

    assert torch.allclose(model(x()), expected, atol=1e-6)
    assert turns_input(model[0])
    assert not turns_input(model[1])


def test_attached_twice_is_attached_once(model: nn.Sequential) -> None:
    turn = OnlineRotation("1", "input", random_hadamard(12, generator()))
    attach_(model, [turn])
    once = model(x())
    attach_(model, [turn])

    assert torch.equal(model(x()), once)


def test_a_linear_that_is_replaced_hands_its_rotation_on(model: nn.Sequential) -> None:
    attach_(model, [OnlineRotation("1", "input", random_hadamard(12, generator()))])
    before = model(x())
    replace_linears_(model, ["1"], [weight_at(model, "1")], None, torch.float32)

    assert turns_input(model[1])
    assert torch.allclose(model(x()), before, atol=1e-6)
    attach_(model, [OnlineRotation("1", "input", random_hadamard(12, generator()))])
    assert torch.allclose(model(x()), before, atol=1e-6)


def test_a_linear_that_multiplies_in_another_dtype_for_a_while_is_turned_meanwhile(model: nn.Sequential) -> None:
    attach_(model, [OnlineRotation("1", "input", random_hadamard(12, generator()))])
    before = model(x())
    with multiplying_in(model, torch.bfloat16):
        assert torch.allclose(model(x()), before, rtol=0.05, atol=0.05)
    assert torch.equal(model(x()), before)


def test_what_watches_the_input_later_sees_it_turned(model: nn.Sequential) -> None:
    R = random_hadamard(12, generator())
    seen: list[torch.Tensor] = []
    attach_(model, [OnlineRotation("0", "input", R)])
    model[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(x())

    assert torch.equal(seen[0], R.apply(x()))


def test_a_copy_is_turned_as_the_original(model: nn.Sequential) -> None:
    attach_(model, [OnlineRotation("0", "input", DenseRotation(random_orthogonal(12, generator())))])

    assert torch.equal(copy.deepcopy(model)(x()), model(x()))


def everything() -> list[Online]:
    shared = random_hadamard(12, generator(), keeps_mean=True)
    return [
        OnlineRotation("blocks.0", "input", shared),
        OnlineRotation("blocks.1", "output", shared, undo=True),
        OnlineRotation("blocks.0.down", "input", hadamard(20)),
        OnlineRotation("blocks.1.down", "input", random_hadamard(20, generator())),
        OnlineRotation("blocks.1.up", "input", DenseRotation(random_orthogonal(12, generator()).half().contiguous())),
        RotatedKeys(),
    ]


def test_what_is_stored_comes_back() -> None:
    online = everything()
    tensors, facts = encode(online)
    again = decode(tensors, [type(fact).model_validate_json(fact.model_dump_json()) for fact in facts])

    assert len(again) == len(online)
    for stored, back in zip(online, again, strict=True):
        assert type(stored) is type(back)
        if isinstance(stored, OnlineRotation) and isinstance(back, OnlineRotation):
            assert (stored.module, stored.site, stored.undo) == (back.module, back.site, back.undo)
            values = torch.randn(2, stored.rotation.order, generator=generator())
            assert torch.equal(stored.rotation.apply(values), back.rotation.apply(values))


def test_shared_rotations_are_stored_once_and_hadamard_matrices_not_at_all() -> None:
    online = everything()

    assert stored_bits(online[2:3]) == 0
    assert stored_bits(online[:1]) == stored_bits(online[:2]) == 12 * 8
    assert stored_bits(online[4:5]) == 12 * 12 * 16


def test_keys_are_rotated_where_somebody_asks() -> None:
    assert key_rotation(everything()) is hadamard
    assert key_rotation(everything()[:-1]) is None


def test_no_scale_passes_through_a_rotation() -> None:
    model = tiny("llama")
    (link,) = (k for k in discover(model).links if k.target == "model.layers.0.mlp.down_proj")
    attach_(model, [rotate_input_(model, link.target, hadamard(56))])

    with pytest.raises(RefusedError, match="rotated at run time, so no scale can be moved into it"):
        scale_link_(model, link, torch.ones(56))
