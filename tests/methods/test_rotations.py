"""QuaRot and SpinQuant: what they promise beyond what every method does."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration
from slmquant.core.rotation import cayley, matrix_of
from slmquant.errors import RefusedError
from slmquant.methods import quarot, spinquant
from slmquant.methods.common.rotation_trial import RESIDUAL, Gradient, Rotations, Trial
from slmquant.methods.common.work import Work
from slmquant.model.discovery.float64 import computing_in_float64
from slmquant.model.discovery.relations import discover
from slmquant.model.discovery.residual_stream import discover_stream
from slmquant.model.rewriting.online_rotations import OnlineRotation, RotatedKeys
from slmquant.model.rewriting.rotate import fold_norms_
from slmquant.model.structure import ResidualStream
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny
from tests.narrowed import present

SHORT = spinquant.Schedule(iterations=6, tokens=48, held_out=3, evaluations=3)


def work_on(model: PreTrainedModel, scheme: str = "W4A4", seed: int = 0) -> Work:
    calibration = FreshCalibration(model, calibration_tokens(12), torch.float32, Silent())
    return Work(model, discover(model), parse(scheme), calibration, seed=seed)


def folded(architecture: str, seed: int = 0, scale: float = 1.0) -> tuple[Work, ResidualStream]:
    model = tiny(architecture)
    with torch.no_grad():
        model.get_input_embeddings().get_parameter("weight")[:, 3] *= scale
    work = work_on(model, seed=seed)
    stream = discover_stream(work.model, work.relations)
    for block in stream.blocks:
        fold_norms_(work.model, block)
    return work, stream


@functools.cache
def divergence(method: str, scheme: str, seed: int) -> float:
    """Of a tiny model with an outlier channel in its stream, as real models have them."""
    model = tiny("llama", seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] *= 30
        tokens = calibration_tokens(2)
        before = model(tokens).logits.log_softmax(-1)
        calibration = FreshCalibration(model, calibration_tokens(12), torch.float32, Silent())
        after = quantize_(model, method, parse(scheme), calibration).model(tokens).logits.log_softmax(-1)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_an_outlier_channel_does_less_harm_once_it_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rotation alone; clipping, which comes with it, suits wider models than this one."""
    unclipped = replace(quarot.METHOD, transforms=(quarot.HadamardRotation(activation_clip=1.0),))
    monkeypatch.setattr(quarot, "METHOD", unclipped)
    rotated, plain = (sum(divergence(m, "W8A4", seed) for seed in range(4)) for m in ("quarot+rtn", "rtn"))

    assert rotated < 0.8 * plain


def test_another_seed_is_another_rotation() -> None:
    stream = discover_stream(*(lambda w: (w.model, w.relations))(work_on(tiny("llama"))))
    first, again, other = (matrix_of(quarot.random_rotations(stream, seed).residual) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_stays_at_run_time_is_listed() -> None:
    work = work_on(tiny("llama"), "W4A4KV4")
    quarot.HadamardRotation().apply_(work, {})
    places = [(entry.module, entry.site) for entry in work.online if isinstance(entry, OnlineRotation)]

    assert places[:2] == [("model.layers.0", "input"), ("model.layers.1", "output")]
    assert places[2:] == [(f"model.layers.{i}.mlp.down_proj", "input") for i in range(2)]
    assert RotatedKeys() in work.online


def test_a_width_without_a_hadamard_matrix_is_said() -> None:
    work = work_on(tiny("llama", hidden_size=156, num_attention_heads=4, num_key_value_heads=2, head_dim=12))
    quarot.HadamardRotation().apply_(work, {})

    assert "no Hadamard matrix of order 156 is known here: 3 blocks are used" in work.notes


def test_tied_stays_tied_and_the_embedding_is_not_touched() -> None:
    model = tiny("llama")
    before = model.get_input_embeddings().get_parameter("weight").detach().clone()
    quarot.HadamardRotation().apply_(work_on(model), {})

    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().get_parameter("weight"), before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_learned_rotations_are_no_worse_than_their_start_where_nothing_was_learned(architecture: str) -> None:
    work, stream = folded(architecture)
    learned = spinquant.learned_rotations(work, stream, SHORT)
    start = quarot.random_rotations(stream, work.seed)

    def loss(rotations: Rotations) -> float:
        trial = Trial(work, stream, rotations)
        with torch.no_grad(), trial.installed():
            return trial.candidate(work.calibration.windows[-SHORT.held_out :]).loss

    assert loss(learned) <= loss(start) + 1e-4
    assert "3 held-out windows" in work.notes[-1]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_learning_goes_downhill_on_what_it_learns_from_and_stays_orthogonal(architecture: str) -> None:
    work, stream = folded(architecture)
    trial = Trial(work, stream, quarot.random_rotations(stream, 0))
    windows = work.calibration.windows[:4]
    with torch.no_grad(), trial.installed():
        before = trial.candidate(windows).loss
        losses = []
        for _ in range(25):
            assert trial.step_(windows, 0.1, 0.1)
            losses.append(trial.candidate(windows).loss)
        rotations = trial.candidate(windows).rotations

    assert min(losses) < before
    for rotation in rotations.heads.values():
        R = matrix_of(rotation)
        assert torch.allclose(R @ R.T, torch.eye(len(R), dtype=R.dtype), rtol=0, atol=1e-10)
    R1 = trial.states[RESIDUAL].X
    assert torch.allclose(R1 @ R1.T, torch.eye(len(R1), dtype=R1.dtype), rtol=0, atol=1e-10)
    if stream.subtracts_mean:
        assert torch.allclose(R1.sum(-1), torch.ones(len(R1), dtype=R1.dtype), rtol=0, atol=1e-10)


def test_without_rounding_turned_inputs_change_nothing() -> None:
    """What is learned on: with eight bits and no error, hooks on inputs are the identity."""
    work, stream = folded("llama")
    tokens = calibration_tokens(2)
    trial = Trial(work, stream, quarot.random_rotations(stream, 0))
    trial._rounded = lambda x: x  # type: ignore[method-assign]
    with torch.no_grad():
        before = work.model(tokens).logits
        with trial.installed():
            during = work.model(tokens).logits
        after = work.model(tokens).logits

    assert torch.allclose(during, before, atol=1e-4)
    assert torch.equal(after, before)


class TestGradient:
    """Rotations follow the expected loss: that of noise, spread like rounding errors, times the scale of each token."""

    @staticmethod
    def tangent(X: Tensor, gradient: Tensor) -> Tensor:
        """The part of a gradient that a rotation can follow: `G Xᵀ − X Gᵀ`, skew-symmetric."""
        product = gradient.double() @ X.mT
        return product - product.mT

    @pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
    def test_of_the_dithered_loss_is_what_finite_differences_show(self, architecture: str) -> None:
        """In float64, along a random direction of the Cayley curve of every rotation at once."""
        work, stream = folded(architecture)
        work.model.double()
        trial = Trial(
            replace(work, dtype=torch.float64), stream, quarot.random_rotations(stream, 0), "dithered", clip=0.9
        )
        windows, generator, slope = work.calibration.windows[:2], torch.Generator().manual_seed(3), 0.0

        def loss(step: float) -> float:
            trial.states = {name: state._replace(X=cayley(step * ways[name], X[name])) for name, state in start.items()}
            trial._read_matrices()
            trial.noise.manual_seed(5)
            return float(trial.losses(windows).mean())

        with torch.no_grad(), computing_in_float64(), trial.installed():
            start, ways = dict(trial.states), {}
            X = {name: state.X for name, state in start.items()}
            trial.noise.manual_seed(5)
            for name, gradient in trial.gradients(windows).items():
                drawn = torch.randn(X[name].shape, generator=generator, dtype=torch.float64)
                ways[name] = (drawn - drawn.T) / len(drawn)
                slope += float((gradient * (ways[name] @ X[name])).sum())
            found = (loss(1e-5) - loss(-1e-5)) / 2e-5

        assert len(ways) > 1
        assert slope == pytest.approx(found, rel=1e-4)

    def test_points_where_the_expected_error_falls_and_with_scales_frozen_nowhere(self) -> None:
        """Squared error of tokens with an outlier channel; expected is the mean of 200 draws of the dither."""
        work, stream = folded("llama")
        x = torch.randn(256, stream.width, generator=torch.Generator().manual_seed(2))
        x[:, 3] *= 10
        found: dict[str, Tensor] = {}
        kinds: tuple[tuple[Gradient, int], ...] = (("scale", 1), ("frozen", 1), ("dithered", 200))
        for gradient, draws in kinds:
            trial = Trial(work, stream, quarot.random_rotations(stream, 0), gradient)
            for _ in range(draws):
                given = x.clone()
                (trial._stream_input(work.model, (given,))[0] - given).square().sum().backward()
            matrix = trial.matrices[RESIDUAL]
            found[gradient] = self.tangent(trial.states[RESIDUAL].X, present(matrix.grad) / draws).flatten()

        expected = found["dithered"]
        assert float(torch.cosine_similarity(found["scale"], expected, dim=0)) > 0.8
        assert float(found["frozen"].norm() / expected.norm()) < 1e-3

    def test_learning_sees_clipped_activations(self) -> None:
        work, stream = folded("llama")
        losses = {}
        for clip in (1.0, 0.5):
            trial = Trial(work, stream, quarot.random_rotations(stream, 0), clip=clip)
            with torch.no_grad(), trial.installed():
                losses[clip] = trial.losses(work.calibration.windows[:4])
                rounded = trial._rounded(torch.tensor([[1.0, 0.4, -0.1]]))
            assert float(rounded.max()) == pytest.approx(clip)

        assert not torch.allclose(losses[1.0], losses[0.5])


class TestWhatIsKept:
    def test_a_state_that_is_better_by_chance_is_not(self) -> None:
        """Of 1000 sets of 16 windows without a difference, about one in twenty passes."""
        generator = torch.Generator().manual_seed(0)
        passed = [spinquant._chance(torch.randn(16, generator=generator), 1) < 0.05 for _ in range(1000)]

        assert 0.03 < sum(passed) / len(passed) < 0.07

    def test_the_more_states_are_tried_the_better_one_must_be(self) -> None:
        differences = torch.randn(16, generator=torch.Generator().manual_seed(0)) - 0.5

        assert spinquant._chance(differences, 4) == pytest.approx(4 * spinquant._chance(differences, 1))
        assert spinquant._chance(torch.zeros(16), 1) == 1
        assert spinquant._chance(-differences, 1) > 0.5

    def test_the_start_is_kept_unless_another_is_told_from_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        work, stream = folded("llama")
        monkeypatch.setattr(spinquant, "_chance", lambda differences, states: 0.2)
        learned = spinquant.learned_rotations(work, stream, SHORT)

        assert torch.equal(matrix_of(learned.residual), matrix_of(quarot.random_rotations(stream, 0).residual))

    def test_the_start_is_kept_where_the_loss_is_not_finite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        work, stream = folded("llama")
        losses = Trial.losses

        def broken(self: Trial, tokens: torch.Tensor) -> torch.Tensor:
            value = losses(self, tokens)
            return value * float("nan") if torch.is_grad_enabled() else value

        monkeypatch.setattr(Trial, "losses", broken)
        learned = spinquant.learned_rotations(work, stream, SHORT)

        assert torch.equal(matrix_of(learned.residual), matrix_of(quarot.random_rotations(stream, 0).residual))
        assert any("not finite in iteration 1" in note for note in work.notes)

    def test_tokens_that_are_drawn_again_are_said(self) -> None:
        work, stream = folded("llama")
        spinquant.learned_rotations(work, stream, replace(SHORT, iterations=40))

        assert work.notes[0].startswith("rotations learn from 216 different tokens, each seen 8.9 times")


class TestRefusals:
    def test_nothing_to_learn_from_in_sixteen_bits(self) -> None:
        work = work_on(tiny("llama"))
        reason = methods.load("spinquant").refusal(parse("W4A16g8"), work.relations)

        assert reason is not None
        assert "use quarot" in reason

    def test_a_model_is_rotated_once(self) -> None:
        work = work_on(tiny("llama"))
        quarot.HadamardRotation().apply_(work, {})
        with pytest.raises(RefusedError, match="rotated already"):
            spinquant.LearnedRotation().apply_(work, {})

    def test_few_windows_are_too_few(self) -> None:
        work, stream = folded("llama")
        few = FreshCalibration(work.model, calibration_tokens(3), torch.float32, Silent())
        with pytest.raises(RefusedError, match="but got 3 in total; use at least"):
            spinquant.learned_rotations(replace(work, calibration=few), stream, SHORT)
