"""The contract of methods on every architecture: quantize, or refuse with a reason. Shipped for plug-ins, too."""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant import methods
from slmquant.calib.calibration import FreshCalibration
from slmquant.core.affine import QuantizedTensor
from slmquant.errors import RefusedError
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.discovery.relations import discover
from slmquant.progress import Silent
from slmquant.quantization import quantize_
from slmquant.schemes import Scheme, parse
from slmquant.testing.contract import ContractError, Outcome, demand
from slmquant.testing.tiny import VOCABULARY, tiny

_SAMPLES, _LENGTH = 6, 24
_FURTHER = 80
_FAITHFUL_BITS = 8
_FAITHFUL_KL = 0.01


def calibration_tokens(samples: int = _SAMPLES, length: int = _LENGTH) -> Int[Tensor, "samples seq"]:
    """Random tokens of the tiny vocabulary, the same at every call."""
    return torch.randint(0, VOCABULARY, (samples, length), generator=torch.Generator().manual_seed(1))


def further_tokens() -> Int[Tensor, "samples seq"]:
    """Other windows, as many as any method asks for beside those of calibration at its fast budget."""
    return calibration_tokens(_SAMPLES + _FURTHER)[_SAMPLES:]


def quantized(
    method: str, scheme: str, architecture: str = "llama", seed: int = 0, device: str = "cpu"
) -> QuantizedModel:
    """A tiny model of an architecture, quantized on a device.

    Raises:
        RefusedError: The method refuses the model or scheme.
    """
    model = tiny(architecture)
    nn.Module.to(model, torch.device(device))
    calibration = FreshCalibration(model, calibration_tokens(), torch.float32, Silent(), further_tokens())
    return quantize_(model, method, parse(scheme), calibration, seed=seed)


def check_method(method: str, architecture: str, scheme: str, device: str = "cpu") -> Outcome:
    """Check a method's contract on one architecture at one scheme.

    The method refuses in a sentence, or: every linear of the blocks has codes, all within range, and no scale of 0; the
    model runs and its logits are finite; and if nothing has fewer than eight bits, logits are nearly unchanged.

    Raises:
        ContractError: The method violates its contract.
    """
    try:
        result = quantized(method, scheme, architecture, device=device)
    except RefusedError as refusal:
        demand(len(str(refusal)) > len(method) + 20, f"a refusal says why: {refusal}")
        return Outcome(str(refusal))
    try:
        _check_result(result, architecture)
    except ContractError as error:
        raise ContractError(f"{method} on {architecture} at {scheme} {error}") from None
    return Outcome(None, result.notes)


def _check_result(result: QuantizedModel, architecture: str) -> None:
    if result.scheme.weights is not None:
        missing = set(_linears(architecture)) - set(result.weights)
        demand(not missing, f"gives every linear codes; missing {sorted(missing)}")
    for name, weight in result.weights.items():
        _check_codes(name, weight)
    divergence = _divergence(architecture, result.model)
    demand(math.isfinite(divergence), "gives finite logits")
    if _is_faithful(result.scheme):
        demand(divergence < _FAITHFUL_KL, f"moves the logits by less than {_FAITHFUL_KL} nats, not by {divergence:.3f}")


def _check_codes(name: str, weight: QuantizedTensor) -> None:
    low, high = int(weight.codes.min()), int(weight.codes.max())
    limit = 2 ** (weight.bits - 1)
    first, last = (-limit, limit - 1) if weight.codes.dtype == torch.int8 else (0, 2 * limit - 1)
    demand(first <= low and high <= last, f"codes of {name} lie in [{first}, {last}]; got [{low}, {high}]")
    demand(bool((weight.scale != 0).all()), f"no scale of {name} is 0")
    demand(bool(torch.isfinite(weight.dequantize()).all()), f"{name} is finite")


def _is_faithful(scheme: Scheme) -> bool:
    parts = (scheme.weights, scheme.embeddings)
    weight_bits = [part.format.bits for part in parts if part is not None]
    other_bits = [part.bits for part in (scheme.activations, scheme.kv) if part is not None]
    return scheme.special is None and min(weight_bits + other_bits, default=_FAITHFUL_BITS) >= _FAITHFUL_BITS


@functools.cache
def _linears(architecture: str) -> tuple[str, ...]:
    return discover(tiny(architecture)).linears


@torch.no_grad()
def _divergence(architecture: str, model: PreTrainedModel) -> float:
    """Mean KL divergence of a quantized model from the original tiny model, in nats."""
    before = _reference_logits(architecture)
    after = model(calibration_tokens(2).to(model.device)).logits.cpu()
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


@functools.cache
def _reference_logits(architecture: str) -> Tensor:
    with torch.no_grad():
        logits: Tensor = tiny(architecture)(calibration_tokens(2)).logits
    return logits


def combinations() -> list[str]:
    """Every method except the reference, and combinations that are also worth testing."""
    pairs = ["smoothquant+gptq", "smooth_rms+gptq_sink", "awq+gptq", "quarot+rtn", "quarot+hqq", "lqer+gptq"]
    known = [name for name in methods.names() if name != methods.REFERENCE]
    return [*known, *(pair for pair in pairs if set(pair.split("+")) <= set(known))]
