"""Clipping of activations: what a quantizer does with it, who asks for it, who keeps it, who refuses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from slmquant import methods
from slmquant.artifact import Artifact
from slmquant.calib.calibration import FreshCalibration
from slmquant.formats import native
from slmquant.formats.common.entries import run_time_refusal
from slmquant.methods import quarot
from slmquant.methods.common.activation_clip import RATIOS, clip_activations_, searched_ratio
from slmquant.methods.common.work import Work
from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.model.computing.assembly import Assembly
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.model.rewriting.online_rotations import ClippedActivations, activation_clip
from slmquant.model.size import count_parameters
from slmquant.progress import Silent
from slmquant.quantization import _Quantization, quantize_
from slmquant.schemes import parse
from slmquant.testing.method_contract import calibration_tokens
from slmquant.testing.tiny import tiny


def work_on(scheme: str) -> Work:
    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 3] *= 8
    calibration = FreshCalibration(model, calibration_tokens(6), torch.float32, Silent())
    return Work(model, discover(model), parse(scheme), calibration)


def quantized(method: str, scheme: str) -> QuantizedModel:
    model = tiny("llama")
    return quantize_(
        model, method, parse(scheme), FreshCalibration(model, calibration_tokens(6), torch.float32, Silent())
    )


def quantizers(made: QuantizedModel) -> list[ActivationQuantizer]:
    return [module for module in made.model.modules() if isinstance(module, ActivationQuantizer)]


@pytest.mark.parametrize("ratio", [1.0, 0.9, 0.5])
def test_the_last_number_stands_for_the_share_and_what_is_above_is_clipped(ratio: float) -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    spec = parse("W4A4").activations
    assert spec is not None
    codes, scale = ActivationQuantizer(spec, torch.float32, clip=ratio)(x)

    end = ratio * x.abs().amax(dim=1, keepdim=True)
    step = end / 7.5
    assert torch.allclose(scale, step, rtol=1e-6) or torch.allclose(scale, end / 7, rtol=1e-6)
    inside = x.abs() <= scale * 7
    assert (codes * scale - x)[inside].abs().le(scale.expand_as(x)[inside] / 2 + 1e-6).all()
    assert (codes * scale).abs().le(scale * 8).all()


@pytest.mark.parametrize("method", ["quarot", "quarot+rtn"])
@pytest.mark.parametrize("scheme", ["W4A4", "W4A3", "W4A4-static"])
def test_quarot_clips_as_published_and_says_so(method: str, scheme: str) -> None:
    made = quantized(method, scheme)

    assert activation_clip(made.online) == 0.9
    assert {quantizer.clip for quantizer in quantizers(made)} == {0.9}
    assert any("clipped to 0.9" in note for note in made.notes)


def test_a_calibrated_scale_covers_the_share_too() -> None:
    """The first linears read the same tensors, clipped or not: weights are exact."""
    plain, clipped = (scales_with(ratio) for ratio in (1.0, 0.9))
    first = next(iter(plain))

    assert clipped[first] == pytest.approx(0.9 * plain[first])


def scales_with(ratio: float) -> Mapping[str, float]:
    work = work_on("W16A8-static")
    clip_activations_(work, ratio)
    quantization = _Quantization(methods.load("rtn"), work)
    assembly = Assembly(work.model, work.scheme, count_parameters(work.model), work.online, work.dtype)
    quantization.round_(assembly)
    return assembly.finish_("rtn", work.relations.groups, frozenset()).activation_scales


@pytest.mark.parametrize("scheme", ["W4A16g16", "W4AFP8", "W4A8", "W8A8-static"])
def test_what_is_no_integer_of_four_bits_is_not_clipped(scheme: str) -> None:
    made = quantized("quarot", scheme)

    assert activation_clip(made.online) == 1
    assert not any("clipped" in note for note in made.notes)


@pytest.mark.parametrize("scheme", ["W8A8", "W8A8-static"])
def test_it_is_kept_in_an_artifact(tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In eight bits, where what an artifact rounds to 16 bits moves no codes that matter."""
    clipping = replace(quarot.METHOD, transforms=(quarot.HadamardRotation(activation_clip=0.9),))
    monkeypatch.setattr(quarot, "METHOD", clipping)
    made = quantized("quarot", scheme)
    tokens = calibration_tokens(2)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    folder = native.save(Artifact(made, tokenizer, "tiny", "0" * 64), tmp_path / "model")
    opened = native.load(folder).quantized

    assert {quantizer.clip for quantizer in quantizers(opened)} == {0.9}
    with torch.no_grad():
        before, after = (model(tokens).logits.log_softmax(-1) for model in (made.model, opened.model))
    assert float((before.exp() * (before - after)).sum(-1).mean()) < 5e-3


def test_an_engine_that_cannot_is_told() -> None:
    made = replace(quantized("rtn", "W4A8"), online=(ClippedActivations(0.9),))

    assert "to 0.9 of each token's range, which that engine does not do" in str(run_time_refusal(made, "that engine"))


def test_the_search_finds_what_rounding_the_whole_model_finds() -> None:
    """Weights stay; the reference rounds activations by the driver, one model for each ratio."""
    work = work_on("W16A4")
    spec = work.scheme.activations
    assert spec is not None
    found, tried = searched_ratio(work, spec)
    windows = calibration_tokens(6)
    with torch.no_grad():
        exact = work.model(windows).logits.log_softmax(-1)
        for ratio in RATIOS:
            again = work_on("W16A4")
            made = quantize_(again.model, "rtn", again.scheme, again.calibration)
            for quantizer in quantizers(made):
                quantizer.clip = ratio
            rounded = made.model(windows).logits.log_softmax(-1)
            expected = float((exact.exp() * (exact - rounded)).sum(-1).mean())
            assert tried[ratio] == pytest.approx(expected, rel=1e-3)
    assert found == min(tried, key=tried.__getitem__)


def test_a_searched_share_is_installed_and_noted() -> None:
    work = work_on("W4A4")
    clip_activations_(work, "searched")

    assert activation_clip(work.online) in RATIOS
    assert "divergence on calibration" in work.notes[-1]
