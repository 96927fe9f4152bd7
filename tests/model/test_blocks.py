"""Walking block by block sees what the model's own forward pass sees, on every architecture."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.core.affine import Grid
from slmquant.errors import ModelError
from slmquant.model.computing.linear import QuantizedLinear, multiplying_in, replace_linears_
from slmquant.model.discovery.float64 import computing_in_float64
from slmquant.model.linears import weight_at
from slmquant.model.running import block_walk as blocks_module
from slmquant.model.running.block_walk import CurrentBlock, walk
from slmquant.model.structure import Relations
from slmquant.testing.tiny import ARCHITECTURES, VOCABULARY, tiny
from tests.discovered import relations_of
from tests.narrowed import present


def windows(samples: int = 5, length: int = 12) -> Tensor:
    return torch.randint(0, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(1))


def streams(model: PreTrainedModel, relations: Relations, tokens: Tensor) -> list[Tensor]:
    """What enters each block, and what leaves the last, in the model's own forward pass."""
    seen: list[Tensor] = []

    def enter(_block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).clone())

    def leave(_block: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    modules = [model.get_submodule(name) for name in relations.blocks]
    hooks = [block.register_forward_pre_hook(enter, prepend=True, with_kwargs=True) for block in modules]
    hooks.append(modules[-1].register_forward_hook(leave))
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def walked(model: PreTrainedModel, relations: Relations, tokens: Tensor, dtype: torch.dtype) -> list[Tensor]:
    seen: list[Tensor] = []
    for block in walk(model, relations, tokens, dtype):
        seen.append(block.inputs.clone())
    return [*seen, block.inputs]


def put_in_place_(model: PreTrainedModel, block: CurrentBlock, grid: Grid) -> None:
    for group in block.groups:
        rounded = [grid.quantize(weight_at(model, name)) for name in group.linears]
        replace_linears_(model, group.linears, rounded, None, torch.float32)


@pytest.fixture(autouse=True)
def ragged_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five windows go as 2 + 2 + 1."""
    monkeypatch.setattr(blocks_module, "_BATCH_TOKENS", 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_walking_is_the_models_own_forward_pass(name: str, dtype: torch.dtype) -> None:
    model, relations = tiny(name), relations_of(name)
    nn.Module.to(model, dtype)
    exact = dtype == torch.float64
    with computing_in_float64() if exact else nullcontext():
        expected = streams(model, relations, windows())
        found = walked(model, relations, windows(), dtype)

    assert len(found) == len(expected) == len(relations.blocks) + 1
    tolerance = 1e-10 if exact else 1e-5
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "bloom", "falcon-alibi", "mamba2", "olmoe", "mpt"])
def test_inputs_follow_the_quantized_blocks_and_exact_inputs_do_not(name: str) -> None:
    model, relations = tiny(name), relations_of(name)
    exact = streams(model, relations, windows())
    inputs: list[Tensor] = []
    for index, block in enumerate(walk(model, relations, windows(), torch.float32, wants_exact="outputs")):
        assert torch.allclose(present(block.exact_inputs), exact[index], atol=1e-4)
        assert torch.allclose(present(block.exact_outputs), exact[index + 1], atol=1e-4)
        inputs.append(block.inputs.clone())
        put_in_place_(model, block, Grid(4))
    quantized = streams(model, relations, windows())

    for ours, theirs in zip(inputs, quantized[:-1], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(inputs[-1], exact[-2], atol=1e-2)


def test_whoever_wants_exact_inputs_alone_moves_them_on() -> None:
    model, relations = tiny("llama"), relations_of("llama")
    exact = streams(model, relations, windows())
    for index, block in enumerate(walk(model, relations, windows(), torch.float32, wants_exact="inputs")):
        assert torch.allclose(present(block.exact_inputs), exact[index], atol=1e-4)
        for part in block.batches():
            block.move_on_(part, block.run(present(block.exact_inputs)[part]))
        put_in_place_(model, block, Grid(4))


def test_exact_inputs_that_the_walk_moves_on_are_left_alone() -> None:
    model = tiny("llama")
    block = next(walk(model, relations_of("llama"), windows(), torch.float32, wants_exact="outputs"))

    with pytest.raises(ValueError, match="cannot replace the exact inputs of"):
        block.move_on_(slice(0, 1), present(block.exact_inputs)[:1])


def test_every_linear_is_in_hand_once_and_in_order() -> None:
    model, relations = tiny("qwen2_moe"), relations_of("qwen2_moe")
    groups = [group for block in walk(model, relations, windows(), torch.float32) for group in block.groups]

    assert tuple(groups) == relations.groups


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["llama", "bloom", "gemma3_text", "falcon-alibi"])
def test_a_block_runs_on_any_number_of_windows(name: str, batch: int) -> None:
    model, relations = tiny(name), relations_of(name)
    expected = streams(model, relations, windows())

    first = next(walk(model, relations, windows(), torch.float32))

    assert torch.allclose(first.run(first.inputs[:batch]), expected[1][:batch], atol=1e-5)


def test_gradients_flow_through_a_block() -> None:
    model = tiny("llama").requires_grad_(False)
    block = next(walk(model, relations_of("llama"), windows(), torch.float32))
    gain = block.module.get_parameter("input_layernorm.weight").requires_grad_(True)
    with multiplying_in(block.module, torch.bfloat16):
        block.run(block.inputs[:2]).square().mean().backward()

    assert gain.grad is not None
    assert float(gain.grad.abs().sum()) > 0
    assert not block.inputs.requires_grad


@pytest.mark.parametrize("at", ["entrance", "exit"])
def test_hooks_on_blocks_run_once(at: str) -> None:
    """An online rotation is such a hook: what the walk sees is still the model's own forward pass."""
    model, relations = tiny("llama"), relations_of("llama")
    first, last = (model.get_submodule(relations.blocks[index]) for index in (0, -1))
    if at == "entrance":
        first.register_forward_pre_hook(lambda _block, args: (2 * args[0].flip(-1), *args[1:]))
    else:
        last.register_forward_hook(lambda _block, _args, output: 2 * output.flip(-1))
    expected = streams(model, relations, windows())

    found = walked(model, relations, windows(), torch.float32)

    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(found, expected, strict=True))


def test_nothing_is_left_behind_when_a_walk_is_given_up() -> None:
    model, relations = tiny("llama"), relations_of("llama")
    steps = walk(model, relations, windows(), torch.bfloat16)
    assert isinstance(steps, Generator)
    next(steps)
    next(steps)
    steps.close()

    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(isinstance(module, QuantizedLinear) for module in model.modules())


def test_windows_of_another_length_are_refused() -> None:
    model = tiny("llama")
    block = next(walk(model, relations_of("llama"), windows(), torch.float32))

    with pytest.raises(ValueError, match=r"model\.layers\.0 got windows of 7 tokens; expected 12"):
        block.run(block.inputs[:, :7])


def test_arguments_that_depend_on_the_tokens_are_refused() -> None:
    model, relations = tiny("llama"), relations_of("llama")
    give: Callable[..., object] = lambda _block, args, kwargs: (args, {**kwargs, "extra": args[0] + 1})  # noqa: E731
    model.get_submodule(relations.blocks[0]).register_forward_pre_hook(give, with_kwargs=True)

    with pytest.raises(ModelError, match="depends on the tokens"):
        next(walk(model, relations, windows(), torch.float32))


class TestMultiplyingIn:
    def test_plain_linears_multiply_in_the_dtype_and_come_back(self) -> None:
        model = tiny("gpt2")
        before = dict(model.named_modules())
        exact = model(windows()).logits
        with multiplying_in(model.base_model, torch.bfloat16):
            coarse = model(windows()).logits

        assert not torch.equal(coarse, exact)
        assert torch.allclose(coarse, exact, atol=0.3)
        assert torch.equal(model(windows()).logits, exact)
        assert all(module is before[name] for name, module in model.named_modules())

    def test_they_come_back_after_an_error(self) -> None:
        model = tiny("llama")
        with pytest.raises(RuntimeError, match="stop"), multiplying_in(model, torch.bfloat16):
            raise RuntimeError("stop")

        assert not any(isinstance(module, QuantizedLinear) for module in model.modules())
