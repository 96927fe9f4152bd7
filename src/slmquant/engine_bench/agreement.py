"""How far an engine may be from the torch reference of the same artifact, and whether it is within that."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHARE = 0.1
"""Allowed KL of an engine, as a share of the KL that quantization itself causes (quantized against full precision)."""

KL_FLOOR = 0.001
"""Allowed mean KL(reference‖engine) in nats for a full-precision model. Computing in bfloat16, which changes no digit
of a table, costs 0.0003 (products alone) to 0.0008 (all of it, vLLM) on SmolLM2-135M; the engines tried here cost
0.00001 and less on stories15m.
"""

KERNEL_FLOOR = 0.004
"""The least allowed mean KL for quantized weights, and the allowed one if the full-precision model is unknown.
Kernels for quantized weights round activations to eight bits, in blocks: llama.cpp's for every type, ONNX Runtime's at
the accuracy level that its builder sets. With either, that alone is 0.0027 nats on stories15m at W8A16g32, as much as
quantizing costs there; OpenVINO does not round activations and is within 0.00001. The row states the measured KL.
"""

LOSS_FLOOR = 0.01
"""The least allowed change of the mean loss, in nats: one per cent of the perplexity. If an engine is off by `KL_FLOOR`
without bias, its losses differ from the reference's by √(2 · 0.001), so their mean over 2000 predictions is 0 ± 0.001
and passes with room; a biased error does not. Above this floor, the loss may change by as much as the KL may, since
the KL is the growth of the loss on text that the reference itself would write.
"""

NOISE_SHARE = 1.2
"""Allowed KL of an engine that runs rounded activations, as a share of the reference's own noise.

A rounded activation that lies between two codes goes to either side by the last bit of a sum, and each such code
changes the next ones: SmolLM2-135M at W8A8 with embeddings that are off by a millionth is nearly as far from itself as
from full precision (`benchmarks/activation_noise.py`). So an engine of such a model is held to what the reference is
from itself, and beside that to the cost of quantization: its divergence from full precision must be the reference's.
"""

COST_SHARE = 0.2
"""Allowed difference of an engine's and the reference's divergence from full precision, as a share of the latter."""

_STANDARD_ERRORS = 2.0
"""Half the width of a deciding interval, in standard errors."""


@dataclass(frozen=True)
class Parity:
    """An engine compared with the torch reference of the same artifact.

    Attributes:
        predictions: Number of predicted tokens.
        perplexity: The engine's perplexity.
        reference_perplexity: The reference's perplexity.
        log_change_stderr: Standard error of the logarithm of their ratio, from the paired losses.
        kl_mean: Mean KL(reference‖engine), nats.
        kl_max: The largest KL of a single prediction, nats.
        kl_stderr: Standard error of `kl_mean`. Both errors treat blocks of predictions as independent.
        top1_agreement: Share of predictions for which both have the same most probable token.
        own_kl: Mean KL(full precision‖reference), the cost of quantization itself on this text; None if the
            full-precision model is unknown, 0 if it is the reference.
        own_noise: Mean KL(reference‖reference with nudged embeddings); None if the model rounds no activations.
        cost_change: KL(full precision‖engine) less `own_kl`; None if `own_noise` or the full-precision model is.
        cost_change_stderr: Its standard error, likewise by blocks.
    """

    predictions: int
    perplexity: float
    reference_perplexity: float
    log_change_stderr: float
    kl_mean: float
    kl_max: float
    kl_stderr: float
    top1_agreement: float
    own_kl: float | None = None
    own_noise: float | None = None
    cost_change: float | None = None
    cost_change_stderr: float = math.inf

    @property
    def kl_bound(self) -> float:
        """Allowed mean KL in nats: a share of the cost of quantization or of the reference's noise, above a floor."""
        return max(self._floor, SHARE * (self.own_kl or 0.0), self._noise_bound)

    @property
    def _noise_bound(self) -> float:
        """What noise allows; nothing if the cost is not known, which alone tells another model within the noise."""
        return 0.0 if self.own_noise is None or self.cost_change is None else NOISE_SHARE * self.own_noise

    @property
    def _floor(self) -> float:
        return KL_FLOOR if self.own_kl == 0 else KERNEL_FLOOR

    @property
    def loss_bound(self) -> float:
        """Allowed change of the mean loss, in nats."""
        return max(LOSS_FLOOR, self.kl_bound)

    @property
    def cost_bound(self) -> float:
        """Allowed `cost_change`, in nats."""
        return max(KERNEL_FLOOR, COST_SHARE * (self.own_kl or 0.0))

    @property
    def perplexity_change(self) -> float:
        """Relative difference of the engine's perplexity from the reference's, signed."""
        return self.perplexity / self.reference_perplexity - 1

    @property
    def refusal(self) -> str | None:
        """Why the engine is not shown to compute the same model as the reference; None if it is.

        Each value has an interval of ± two standard errors. If all upper ends are within their bounds, the engine
        passes. If a lower end is above its bound, the engine computes another model. Otherwise more text is needed, so
        less text never makes passing easier.
        """
        checks = [
            (self.kl_mean, self.kl_stderr, self.kl_bound),
            (self._loss_change, self.log_change_stderr, self.loss_bound),
        ]
        if self.cost_change is not None:
            checks.append((abs(self.cost_change), self.cost_change_stderr, self.cost_bound))
        # `not <=`, so that NaN does not pass
        if all(value + _STANDARD_ERRORS * error <= bound for value, error, bound in checks):
            return None
        is_other = any(not value - _STANDARD_ERRORS * error <= bound for value, error, bound in checks)
        figures = (
            f"mean KL to the reference {self.kl_mean:.5f} ± {self.kl_stderr:.5f} nats ({self._allowed}), "
            f"perplexity {self.perplexity:.4f} against {self.reference_perplexity:.4f}, {self.perplexity_change:+.2%} "
            f"± {self.log_change_stderr:.2%} ({self.loss_bound:.1%} allowed){self._cost}"
        )
        if is_other:
            return f"the engine computes another model: {figures}"
        return (
            f"{self.predictions} predictions are too few to tell whether the engine computes the same model: {figures}"
        )

    @property
    def _loss_change(self) -> float:
        return abs(math.log(self.perplexity / self.reference_perplexity))

    @property
    def _cost(self) -> str:
        if self.cost_change is None:
            return ""
        error = f"± {self.cost_change_stderr:.4f} nats ({self.cost_bound:.4f} allowed)"
        return f", divergence from full precision {self.cost_change:+.4f} {error}"

    @property
    def _allowed(self) -> str:
        if self.kl_bound == self._noise_bound:
            return f"{self.kl_bound:.5f} allowed, as the reference is {self.own_noise:.4f} from itself when nudged"
        if self.kl_bound > self._floor:
            return f"{self.kl_bound:.5f} allowed, a tenth of the {self.own_kl:.4f} that quantization costs"
        if self.own_kl is None:
            return f"{self._floor:g} allowed, the full-precision model being unknown"
        return f"{self._floor:g} allowed"
