"""The models of a plan, as transformers' own architectures, which load, quantize and export like any other.

All equal Llama but for one thing: SmolLM3 has layers without positions, Qwen3 has norms of queries and keys, StableLM
with all dimensions rotated has LayerNorm, Arcee has a plain feed-forward network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from slmquant.lab.factors import COMPENSATING
from slmquant.lab.settings import Settings
from slmquant.model.size import count_parameters

SEPARATOR = "-"
"""Between the parts of a model's name."""
END_OF_TEXT = 0
"""Id of the only special token, which stands between documents."""
_THETA, _EPSILON = 10_000.0, 1e-6
_EMBEDDING_SD = 0.02
_WIDTH_STEP = 4


@dataclass(frozen=True)
class Arm:
    """One model to train.

    Attributes:
        factor: The factor that it differs from the base in.
        level: The level of that factor.
        seed: Its block.
        settings: Architecture and training.
    """

    factor: str
    level: str
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        """The beginning of the model's name, from which records tell its arm: `lab-FACTOR-LEVEL-SEED`."""
        return SEPARATOR.join(("lab", self.factor, self.level, str(self.seed)))


def configuration(settings: Settings) -> PreTrainedConfig:
    """The configuration of a model."""
    kind, special = _architecture(settings)
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": _THETA}
    if settings.position == "yarn":
        original = round(settings.context / settings.yarn_factor)
        rope |= {
            "rope_type": "yarn", "factor": settings.yarn_factor, "original_max_position_embeddings": original,
        }  # fmt: skip
    if kind == "stablelm":
        rope["partial_rotary_factor"] = 1.0
    return AutoConfig.for_model(
        kind,
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_heads,
        head_dim=settings.hidden // settings.heads,
        max_position_embeddings=settings.context,
        rope_parameters=rope,
        tie_word_embeddings=settings.tied,
        bos_token_id=None,
        eos_token_id=END_OF_TEXT,
        pad_token_id=None,
        **special,
    )


def _architecture(settings: Settings) -> tuple[str, dict[str, object]]:
    """`model_type`, and entries of the configuration that only it has."""
    rms: dict[str, object] = {"rms_norm_eps": _EPSILON, "hidden_act": "silu"}
    if settings.position == "nope":
        return "smollm3", {**rms, "no_rope_layers": [0] * settings.layers}
    if settings.qk_norm:
        return "qwen3", rms
    if settings.norm == "layer":
        return "stablelm", {"layer_norm_eps": _EPSILON, "hidden_act": "silu", "use_parallel_residual": False}
    if settings.feed_forward == "plain":
        return "arcee", rms
    return "llama", rms


def blank(settings: Settings) -> PreTrainedModel:
    """A model of these settings without memory for its weights (on torch's `meta` device)."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(configuration(settings), dtype=torch.float32)
    return model


def parameters(settings: Settings) -> int:
    """Number of parameters; tied weights count once."""
    return count_parameters(blank(settings))


def matching_intermediate(base: Settings, settings: Settings) -> int | None:
    """The `intermediate` with which a model has as many parameters as the base; None if none comes close."""
    wanted = parameters(base)
    widths = (settings.model_copy(update={COMPENSATING: width}) for width in (_WIDTH_STEP, 2 * _WIDTH_STEP))
    first, second = (parameters(one) for one in widths)
    slope = second - first
    width = _WIDTH_STEP * round(1 + (wanted - first) / slope)
    if width < 2 * _WIDTH_STEP or abs(first + slope * (width / _WIDTH_STEP - 1) - wanted) > slope:
        return None
    return width


def initial(settings: Settings, seed: int) -> PreTrainedModel:
    """A model with its initial weights.

    Every weight is drawn by its name, so that models of a block begin alike in all that they share: linears with the
    deviation 1/√inputs, those that write to the residual stream a further 1/√(2 · layers), embeddings with 0.02.
    """
    model: PreTrainedModel = AutoModelForCausalLM.from_config(configuration(settings), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=_generator(name, seed, settings.start))
                weight.copy_(noise * _deviation(name, weight.shape[1], settings.layers))
    return model


def _deviation(name: str, inputs: int, layers: int) -> float:
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return _EMBEDDING_SD
    residual = name.endswith(("o_proj.weight", "down_proj.weight"))
    return float(inputs**-0.5 * ((2 * layers) ** -0.5 if residual else 1))


def _generator(name: str, seed: int, start: int) -> torch.Generator:
    digest = hashlib.sha256(f"{name} {seed} {start}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
