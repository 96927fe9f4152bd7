"""Sequential methods round each block for what the blocks before it give, and gain by it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration
from slmquant.core.affine import QuantizedTensor
from slmquant.core.gptaq import gptaq
from slmquant.core.gptq import gptq
from slmquant.methods.common.parts import BlockSolver
from slmquant.methods.common.work import Work
from slmquant.methods.gptaq import Gptaq
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.model.computing.grids import grid_of
from slmquant.model.computing.linear import replace_linears_
from slmquant.model.discovery.relations import discover
from slmquant.model.linears import weight_at
from slmquant.model.running.block_walk import walk
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.tiny import VOCABULARY, tiny

SCHEME = "W4A16g16"


def windows(samples: int = 24, length: int = 24, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(seed))


def received(model: PreTrainedModel, name: str, tokens: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    return seen[0]


def solve(model: PreTrainedModel, solver: BlockSolver, scheme: str = SCHEME) -> Mapping[str, QuantizedTensor]:
    """Codes of all blocks; what the driver does with a solver."""
    relations = discover(model)
    calibration = FreshCalibration(model, windows(), torch.float32, Silent())
    work = Work(model, relations, parse(scheme), calibration)
    found: dict[str, QuantizedTensor] = {}
    for block in walk(model, relations, windows(), torch.float32, solver.wants_exact):
        solved = solver.solve_(block, work)
        for group in block.groups:
            replace_linears_(model, group.linears, [solved[name] for name in group.linears], None, torch.float32)
        found |= solved
    return found


def divergence(exact: Tensor, model: PreTrainedModel, tokens: Tensor) -> float:
    with torch.no_grad():
        reference, found = exact.log_softmax(-1), model(tokens).logits.log_softmax(-1)
    return float((reference.exp() * (reference - found)).sum(-1).mean())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "olmoe"])
def test_hessians_are_those_behind_the_quantized_blocks(architecture: str) -> None:
    model, rounding = tiny(architecture), Gptq()
    original = {name: weight_at(model, name).clone() for name in discover(model).linears}
    codes = solve(model, SequentialGptq(rounding))
    relations = discover(tiny(architecture))
    group = next(g for g in relations.groups if g.linears[0].startswith(f"{relations.blocks[-1]}."))
    x = received(model, group.linears[0], windows())  # the first input of the last block, all before it quantized

    weight = torch.cat([original[name] for name in group.linears])
    spec = parse(SCHEME).weights
    assert spec is not None
    expected = gptq(weight, x.T @ x / len(x), grid_of(spec), act_order=True)

    found = torch.cat([codes[name].codes for name in group.linears])
    assert (found == expected.codes).float().mean() > 0.99


def test_a_share_of_the_first_token_is_given_as_in_one_pass() -> None:
    """In the first block both see the very same inputs."""
    model = tiny("llama")
    group = discover(model).groups[0]
    weight = torch.cat([weight_at(model, name) for name in group.linears]).clone()
    x = received(model, group.linears[0], windows())
    first = x.view(24, 24, -1)[:, 0]
    codes = solve(model, SequentialGptq(Gptq(sink_share=0.3)))

    spec = parse(SCHEME).weights
    assert spec is not None
    H = 0.7 * x.T @ x / len(x) + 0.3 * first.T @ first / len(first)
    expected = gptq(weight, H, grid_of(spec), act_order=True)

    found = torch.cat([codes[name].codes for name in group.linears])
    assert (found == expected.codes).float().mean() > 0.99


def test_true_sequential_rounds_each_group_behind_the_rounded_ones() -> None:
    model = tiny("llama")
    relations = discover(model)
    down = next(name for name in relations.linears if name.endswith("layers.0.mlp.down_proj"))
    weight = weight_at(model, down).clone()
    codes = solve(model, SequentialGptq(true_sequential=True))
    x = received(model, down, windows())  # q, k, v, o, gate and up are quantized

    spec = parse(SCHEME).weights
    assert spec is not None
    expected = gptq(weight, x.T @ x / len(x), grid_of(spec), act_order=True)

    assert (codes[down].codes == expected.codes).float().mean() > 0.99


def test_gptaq_aims_at_the_full_precision_model() -> None:
    model, solver = tiny("llama"), Gptaq(strength=1.0)
    relations = discover(model)
    group = next(g for g in relations.groups if g.linears[0].startswith("model.layers.1.self_attn.q"))
    weight = torch.cat([weight_at(model, name) for name in group.linears]).clone()
    exact = received(model, group.linears[0], windows())
    codes = solve(model, solver)
    x = received(model, group.linears[0], windows())

    spec = parse(SCHEME).weights
    assert spec is not None
    H, cross = x.T @ x / len(x), (exact - x).T @ x / len(x)
    expected = gptaq(weight, H, cross, grid_of(spec), act_order=True)

    found = torch.cat([codes[name].codes for name in group.linears])
    assert (found == expected.codes).float().mean() > 0.99
    assert not torch.allclose(x, exact, atol=1e-2)


def test_gptaq_sees_the_rounded_linears_of_its_own_block() -> None:
    """The last linear of the first block, held against inputs recorded in the finished model and in the original."""
    model = tiny("llama")
    down = next(name for name in discover(model).linears if name.endswith("layers.0.mlp.down_proj"))
    weight = weight_at(model, down).clone()
    exact = received(model, down, windows())
    codes = solve(model, Gptaq())
    x = received(model, down, windows())  # q, k, v, o, gate and up are quantized

    spec = parse(SCHEME).weights
    assert spec is not None
    H, cross = x.T @ x / len(x), (exact - x).T @ x / len(x)
    expected = gptaq(weight, H, cross, grid_of(spec), act_order=True, strength=0.25)

    assert (codes[down].codes == expected.codes).float().mean() > 0.99
    assert not torch.allclose(x, exact, atol=1e-2)


def test_gptaq_without_strength_is_sequential_gptq_group_after_group() -> None:
    ours, plain = solve(tiny("llama"), Gptaq(strength=0.0)), solve(tiny("llama"), SequentialGptq(true_sequential=True))

    assert all(torch.equal(ours[name].codes, plain[name].codes) for name in plain)


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_gptaq_weighs_both_moments_alike(architecture: str) -> None:
    """The last linear of the first block, against sums over tokens, each with its weight, first ones with a share."""
    model = tiny(architecture)
    relations = discover(model)
    last = [name for name in relations.linears if name.startswith(f"{relations.blocks[0]}.")][-1]
    weight = weight_at(model, last).clone()
    exact = received(model, last, windows())
    codes = solve(model, Gptaq(weighting="energy", sink_share=0.3))
    x = received(model, last, windows())
    unit = x / x.norm(dim=1, keepdim=True)
    apart = (exact - x) / x.norm(dim=1, keepdim=True)
    heads = slice(None, None, windows().shape[1])  # a window's first token
    rest, own = 0.7 / len(x), 0.3 / len(windows())

    spec = parse(SCHEME).weights
    assert spec is not None
    H = rest * unit.T @ unit + own * unit[heads].T @ unit[heads]
    cross = rest * apart.T @ unit + own * apart[heads].T @ unit[heads]
    expected = gptaq(weight, H, cross, grid_of(spec), act_order=True, strength=0.25)

    assert (codes[last].codes == expected.codes).float().mean() > 0.99


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_gptaq_without_strength_is_weighed_as_sequential_gptq_is(share: float) -> None:
    rounding = Gptq(weighting="energy", sink_share=share, scales="loss")
    ours = solve(tiny("llama"), Gptaq(strength=0.0, weighting="energy", sink_share=share, scales="loss"))
    plain = solve(tiny("llama"), SequentialGptq(rounding, true_sequential=True))

    assert all((ours[name].codes == plain[name].codes).float().mean() > 0.99 for name in plain)


@pytest.mark.parametrize("name", ["gptq_sequential", "gptaq", "gptq_sequential_mse", "gptaq_mse"])
def test_keeps_more_of_the_model_than_nearest_rounding(name: str) -> None:
    gains = []
    for seed in range(3):
        tokens = windows(seed=7)
        exact = tiny("llama", seed)(tokens).logits.detach()
        found = {}
        for method in (name, "rtn"):
            model = tiny("llama", seed)
            calibration = FreshCalibration(model, windows(), torch.float32, Silent())
            found[method] = divergence(exact, quantize_(model, method, parse("W3A16g16"), calibration).model, tokens)
        gains.append(found[name] / found["rtn"])

    assert sum(gains) / len(gains) < 0.9


@pytest.mark.parametrize("name", ["gptq_sequential_mse", "gptaq_mse", "autoround_mse"])
def test_searched_scales_are_refused_where_there_is_no_search(name: str) -> None:
    assert "searches scales" in (methods.load(name).refusal(parse("W4A16-tensor")) or "")
    assert methods.load(name).refusal(parse("W4A16g16")) is None


@pytest.mark.parametrize("name", ["gptq_sequential", "gptaq"])
@pytest.mark.parametrize("scheme", ["W8A16-tensor", "W4A16g16E8", "W4A8"])
def test_schemes_with_more_than_groups(name: str, scheme: str) -> None:
    model = tiny("llama")
    result = quantize_(model, name, parse(scheme), FreshCalibration(model, windows(), torch.float32, Silent()))

    assert torch.isfinite(result.model(windows(2)).logits).all()
