"""On every architecture: rotations leave the logits alone, or are refused with the reason that is written here."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import PreTrainedModel

from slmquant.core.rotation import DenseRotation, Rotation, random_hadamard, random_orthogonal
from slmquant.errors import RefusedError
from slmquant.model.discovery.relations import discover
from slmquant.model.discovery.residual_stream import discover_stream
from slmquant.model.linears import weight_at
from slmquant.model.rewriting.online_rotations import attach_
from slmquant.model.rewriting.rotate import rotate_model_
from slmquant.model.structure import Relations, ResidualStream
from slmquant.testing.preservation import logit_change
from slmquant.testing.tiny import ARCHITECTURES, tiny
from tests.contracts.expected_rotations import HEADS, KEEPS_MEAN, REFUSED, WRITERS
from tests.discovered import relations_of


@functools.cache
def found(name: str) -> tuple[PreTrainedModel, Relations]:
    return tiny(name), relations_of(name)


@functools.cache
def stream_of(name: str) -> ResidualStream:
    return discover_stream(*found(name))


def turn_everything_(model: PreTrainedModel, relations: Relations, stream: ResidualStream, residual: Rotation) -> None:
    generator = torch.Generator().manual_seed(7)
    heads = {
        found.target: DenseRotation(random_orthogonal(found.size, generator))
        for block in stream.blocks
        for found in block.heads
    }
    attach_(model, rotate_model_(model, relations, stream, residual, heads))


ACCEPTED = [name for name in ARCHITECTURES if name not in REFUSED]


@pytest.mark.parametrize("name", ACCEPTED)
def test_turning_everything_leaves_the_logits(name: str) -> None:
    (model, relations), stream = found(name), stream_of(name)
    residual = random_hadamard(stream.width, torch.Generator().manual_seed(3), stream.subtracts_mean)

    assert logit_change(model, lambda copy: turn_everything_(copy, relations, stream, residual)) < 1e-12


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_stream_is_that_of_the_architecture(name: str) -> None:
    stream = stream_of(name)
    last = stream.blocks[-1]

    assert stream.subtracts_mean is (name in KEEPS_MEAN)
    assert len(stream.blocks) == len(found(name)[1].blocks)
    assert [writer.removeprefix(f"{last.block}.") for writer in last.writers] == WRITERS[name].split()
    assert {heads.size for block in stream.blocks for heads in block.heads} == HEADS.get(name, {10})


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_cannot_be_turned_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        discover_stream(*found(name))


@pytest.mark.parametrize("name", sorted(KEEPS_MEAN))
def test_a_layer_norm_does_not_survive_a_rotation_that_moves_the_mean(name: str) -> None:
    """The negative control: what goes wrong when OPT is rotated as a LLaMA shows, and by a lot."""
    (model, relations), stream = found(name), stream_of(name)
    residual = random_hadamard(stream.width, torch.Generator().manual_seed(3))

    assert logit_change(model, lambda copy: turn_everything_(copy, relations, stream, residual)) > 0.05


def test_a_forgotten_writer_shows() -> None:
    (model, relations), stream = found("llama"), stream_of("llama")
    residual = random_hadamard(stream.width, torch.Generator().manual_seed(3))

    def forget_(copy: PreTrainedModel) -> None:
        turn_everything_(copy, relations, stream, residual)
        with torch.no_grad():
            weight_at(copy, stream.blocks[0].writers[0]).mul_(1.0001)

    assert logit_change(model, forget_) > 1e-7


def test_something_that_reads_the_stream_without_a_norm_is_refused() -> None:
    model = tiny("llama")

    def read_again(_module: object, _args: object, kwargs: dict[str, torch.Tensor], output: object) -> object:
        assert isinstance(output, tuple)
        return output[0] + kwargs["hidden_states"].tanh(), *output[1:]

    model.model.layers[1].self_attn.register_forward_hook(read_again, with_kwargs=True)
    relations = discover(model)
    with pytest.raises(RefusedError, match=r"cannot rotate model\.layers\.1"):
        discover_stream(model, relations)


def test_discovery_leaves_no_trace() -> None:
    model, relations = tiny("gpt2"), found("gpt2")[1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    discover_stream(model, relations)

    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
