"""What tokens count for in a Hessian: against plain sums, and with massive tokens planted that matter or do not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slmquant.cache.write import About
from slmquant.calib import stored
from slmquant.calib.calibration import FreshCalibration
from slmquant.calib.capture import capture, capture_block
from slmquant.calib.importance import ImportanceObserver, drawn_loss, importance_hessians
from slmquant.calib.statistics import InputStatistics, Statistic, massive_inputs, massive_note
from slmquant.core.affine import Grid
from slmquant.core.gptq import gptq
from slmquant.core.hessian import Weighting, energy_weights, weighted, with_first_tokens
from slmquant.model.computing.linear import multiply_in_
from slmquant.model.discovery.relations import discover
from slmquant.model.running.block_walk import walk
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.store.record import Phase
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny
from tests.narrowed import present

ALL: set[Statistic] = {"range", "hessian", "hessian_energy", "hessian_importance"}


def seen_by(model: nn.Module, name: str, tokens: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    return seen[0].float()


def outer(X: Tensor, weights: Tensor) -> Tensor:
    """Token by token."""
    H = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64)
    for x, w in zip(X.double(), weights.double(), strict=True):
        H += w * torch.outer(x, x)
    return H / weights.double().sum()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_the_hessian_by_energy_is_the_mean_over_inputs_of_length_one(
    architecture: str, dtype: torch.dtype, error: float
) -> None:
    model = tiny(architecture)
    relations = discover(model)
    multiply_in_(model, dtype)
    found = capture(model, relations, calibration_tokens(), ALL - {"hessian_importance"}).statistics
    for group in relations.groups:
        X = seen_by(model, group.linears[0], calibration_tokens()).flatten(0, -2)
        expected = outer(X / X.norm(dim=1, keepdim=True), torch.ones(len(X)))
        apart = torch.linalg.norm(found[group.linears[0]].weighted("energy").double() - expected)
        assert apart < error * torch.linalg.norm(expected)


def test_a_token_of_next_to_nothing_adds_nothing() -> None:
    """Neither zeros nor numbers whose squares are below what float32 holds; a small one counts like any other."""
    X = torch.tensor([[0.0, 0.0], [1e-25, 0.0], [0.0, 1e-15], [3.0, 4.0]])
    weights = energy_weights(X)
    rows = weighted(X, weights)

    assert torch.allclose(rows, torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))


def test_both_are_gathered_at_once_and_blocks_see_the_same() -> None:
    model = tiny("llama")
    relations = discover(model)
    together = capture(model, relations, calibration_tokens(), {"hessian", "hessian_energy"}).statistics
    block = next(walk(model, relations, calibration_tokens(), torch.float32))
    alone = capture_block(block, block.groups, {"hessian_energy"}, torch.float32)
    for group in block.groups:
        first = group.linears[0]
        assert torch.allclose(alone[first].weighted("energy"), together[first].weighted("energy"), rtol=1e-4)
        with pytest.raises(ValueError, match="Hessian with uniform weighting was not captured"):
            alone[first].weighted("uniform")
    with pytest.raises(ValueError, match="gradients from the end of the model"):
        capture_block(block, block.groups, {"hessian_importance"}, torch.float32)


def test_the_hessian_by_importance_is_weighted_by_the_gradient_of_each_output() -> None:
    """Gradients by autograd with respect to an offset of each linear's output, labels drawn with the same seed."""
    model = tiny("llama")
    relations = discover(model)
    tokens = calibration_tokens(4)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    found = importance_hessians(model, relations, tokens, Silent())
    group = next(g for g in relations.groups if len(g.linears) == 3)

    offsets: dict[str, Tensor] = {}

    def shift(name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
            offsets[name] = torch.zeros_like(out, requires_grad=True)
            return out + offsets[name]

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(shift(name)) for name in group.linears]
    with torch.enable_grad():
        loss = drawn_loss(model(tokens).logits, torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(loss, list(offsets.values()))
    for hook in hooks:
        hook.remove()
    weights = sum(gradient.flatten(0, 1).square().sum(dim=1) for gradient in gradients)
    X = seen_by(model, group.linears[0], tokens).flatten(0, 1)
    expected = outer(X, torch.as_tensor(weights))

    assert torch.allclose(found[group.linears[0]].double(), expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(p, before[n][1]) and p.requires_grad == before[n][0] for n, p in model.named_parameters())


def test_importance_in_bfloat16_is_nearly_the_same() -> None:
    """With the labels that float32 draws; they are drawn from logits that differ by little."""
    exact, coarse = tiny("llama"), tiny("llama")
    relations = discover(exact)
    multiply_in_(coarse, torch.bfloat16)
    first, second = (importance_hessians(m, relations, calibration_tokens(), Silent()) for m in (exact, coarse))
    for name, H in first.items():
        assert torch.linalg.norm(second[name] - H) < 0.1 * torch.linalg.norm(H)


@pytest.mark.parametrize("architecture", ["gpt2", "olmoe", "phi"])
def test_importance_is_told_for_every_input_and_the_head(architecture: str) -> None:
    model = tiny(architecture)
    relations = discover(model)
    statistics = capture(model, relations, calibration_tokens(), {"hessian_importance"}).statistics
    for inputs in statistics.values():
        H = inputs.weighted("importance")
        assert torch.isfinite(H).all()
        assert torch.linalg.eigvalsh(H.double()).min() > -1e-6 * H.trace()


class Downstream(nn.Module):
    """A linear whose output is normalised, as a residual stream is, or read as it stands at the massive token."""

    def __init__(self, matters: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(32, 16, bias=False)
        self.read = torch.randn(12, 16, generator=generator)
        self.matters = matters
        self.linear.weight.data = torch.randn(16, 32, generator=generator) / 6

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        told = F.rms_norm(y, (16,)) @ self.read.T
        return told + 5e-3 * y[:, :1] @ self.read.T if self.matters else told


def planted() -> Tensor:
    """Windows whose first token is massive: thousands in one channel, which others hardly use, some tens elsewhere."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 16, 32, generator=generator)
    x[..., 0] *= 0.05
    x[:, 0] = 30 * torch.randn(32, generator=generator)
    x[:, 0, 0] = 3000
    return x + torch.randn(x.shape, generator=generator) * 0.01


def statistics_of(model: Downstream, x: Tensor) -> InputStatistics:
    observer = ImportanceObserver("linear", 32, torch.device("cpu"))
    with ExitStack() as hooks, torch.enable_grad():
        observer.watch([model.linear], hooks)
        drawn_loss(model(x.clone().requires_grad_()), torch.Generator().manual_seed(0)).backward()
        observer.take_in_()
    flat = x.flatten(0, 1)
    energy = flat.square().sum(dim=1)
    return InputStatistics(
        absmax=flat.abs().amax(0),
        absmean=flat.abs().mean(0),
        rms=flat.square().mean(0).sqrt(),
        hessian=flat.T @ flat / len(flat),
        first=x[:, 0],
        hessian_energy=(flat / energy[:, None]).T @ flat / len(flat),
        hessian_importance=observer.finished(),
        peak_share=(x.square().sum(-1).amax(1).sum() / energy.sum()),
    )


def divergence(model: Downstream, x: Tensor, H: Tensor) -> float:
    """Of the model whose linear was rounded under `H`."""
    with torch.no_grad():
        exact = model(x).log_softmax(-1)
        weight = model.linear.weight.data.clone()
        model.linear.weight.data = gptq(weight, H, Grid(3, True, 16, 16), act_order=True).dequantize()
        rounded = model(x).log_softmax(-1)
        model.linear.weight.data = weight
    return float((exact.exp() * (exact - rounded)).sum(-1).mean())


def losses(matters: bool) -> dict[Weighting, float]:
    model, x = Downstream(matters), planted()
    statistics = statistics_of(model, x)
    return {
        weighting: divergence(model, x, statistics.weighted(weighting))
        for weighting in ("uniform", "energy", "importance")
    }


def test_a_massive_token_that_does_not_matter_takes_nothing_from_the_others() -> None:
    """Its magnitude is normalised away: only uniform tokens let it decide."""
    found = losses(matters=False)

    assert found["energy"] < 0.8 * found["uniform"]
    assert found["importance"] < 0.8 * found["uniform"]


def test_a_massive_token_that_matters_is_kept() -> None:
    """All tokens read its magnitude: counting by the inverse of its energy gives it up, importance does not."""
    found = losses(matters=True)

    assert found["importance"] < 0.8 * found["energy"]
    assert found["importance"] < 1.1 * found["uniform"]


def test_a_share_of_the_first_token_is_one_of_the_trace() -> None:
    X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    first = 1000 * torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    H = X.T @ X
    found = with_first_tokens(H, first, 0.1, "energy")
    unit = first / first.norm(dim=1, keepdim=True)

    assert torch.allclose(found, 0.9 * H / H.trace() + 0.1 * unit.T @ unit / 5, atol=1e-6)
    uniform = with_first_tokens(H, first, 0.1, "uniform")
    assert torch.allclose(uniform, 0.9 * H + 0.1 * first.T @ first / 5)


def test_inputs_at_which_one_token_decides_are_named() -> None:
    x = planted()
    statistics = {"massive": statistics_of(Downstream(False), x), "plain": statistics_of(Downstream(False), x[:, 1:])}
    found = massive_inputs(statistics)

    assert list(found) == ["massive"]
    assert found["massive"] > 0.99
    assert "one token of each window holds most of the Hessian" in str(massive_note(found))
    assert massive_note({}) is None


def test_captured_shares_are_those_of_the_largest_tokens() -> None:
    model = tiny("llama")
    relations = discover(model)
    statistics = capture(model, relations, calibration_tokens(), {"range"}).statistics
    for group in relations.groups:
        energy = seen_by(model, group.linears[0], calibration_tokens()).square().sum(-1)
        share = statistics[group.linears[0]].peak_share
        assert float(present(share)) == pytest.approx(float(energy.amax(1).sum() / energy.sum()), rel=1e-4)


def test_only_what_is_wanted_is_read_from_the_cache(tmp_path: Path) -> None:
    model = tiny("llama")
    captured = capture(model, discover(model), calibration_tokens(), ALL)
    stored.save(captured, tmp_path / "statistics", About("tiny", "all"), Phase(name="capture", seconds=1.0))
    name = next(iter(captured.statistics))
    read = stored.load(tmp_path / "statistics", {"hessian_energy"}).statistics[name]

    assert torch.equal(read.weighted("energy"), captured.statistics[name].weighted("energy"))
    assert read.hessian is None
    assert read.hessian_importance is None
    assert torch.equal(present(read.peak_share), present(captured.statistics[name].peak_share))


@pytest.mark.parametrize(("method", "says"), [("gptq", True), ("gptq_sink_uniform", True), ("gptq_sink", False)])
def test_a_row_names_them_where_they_decided(method: str, says: bool) -> None:
    """A first token that no other is like, to which gate and up answer loudly, as in real models."""
    model = tiny("llama")
    mlp, size = model.model.layers[0].mlp, model.config.hidden_size
    direction = F.normalize(torch.randn(size, generator=torch.Generator().manual_seed(0)), dim=0)
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = 50 * direction
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight += 100 * direction
    tokens = calibration_tokens().clamp(min=1)
    tokens[:, 0] = 0
    calibration = FreshCalibration(model, tokens, torch.float32, Silent())

    notes = quantize_(model, method, parse("W4A16g16"), calibration).notes

    named = [note for note in notes if "one token of each window holds most of the Hessian" in note]
    assert bool(named) == says
    assert all("model.layers.0.mlp.down_proj (" in note for note in named)
