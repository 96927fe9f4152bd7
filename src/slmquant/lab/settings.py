"""What decides a model of the laboratory: its architecture and its training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slmquant.runs.plan_fields import wrong

Position = Literal["rope", "nope", "yarn"]


class Settings(BaseModel):
    """Architecture and training of one model; the base of a plan, which levels of factors change."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    layers: int = Field(default=4, ge=1, le=64)
    """Decoder layers."""
    hidden: int = Field(default=96, ge=8, le=4096)
    """Width of the residual stream."""
    heads: int = Field(default=6, ge=1, le=64)
    """Heads of queries."""
    key_heads: int = Field(default=6, ge=1, le=64)
    """Heads of keys and values: as many as `heads` (MHA), a divisor (GQA), or 1 (MQA)."""
    intermediate: int = Field(default=256, ge=8, le=16384)
    """Width of the feed-forward network."""
    vocabulary: int = Field(default=512, ge=300, le=65536)
    """Tokens of the tokenizer, which is trained on the training text."""
    context: int = Field(default=256, ge=16, le=8192)
    """Tokens of a training window, and the longest input."""
    position: Position = "rope"
    """Rotary positions in every layer, in none (`nope`), or with frequencies stretched by YaRN."""
    yarn_factor: float = Field(default=4.0, ge=1, le=64)
    """How far YaRN stretches; used with `position: yarn` alone."""
    tied: bool = True
    """Whether the embedding is also the head."""
    qk_norm: bool = False
    """Whether queries and keys are normalized in each head (Qwen3)."""
    norm: Literal["rms", "layer"] = "rms"
    """Kind of norms: RMSNorm, or LayerNorm with biases."""
    feed_forward: Literal["gated", "plain"] = "gated"
    """SwiGLU, or two linears with the same activation between them."""
    steps: int = Field(default=1000, ge=1, le=10_000_000)
    """Training steps."""
    batch: int = Field(default=16, ge=1, le=65536)
    """Windows of a step."""
    learning_rate: float = Field(default=3e-3, gt=0, le=1)
    """Largest learning rate."""
    warmup: int = Field(default=50, ge=0, le=100_000)
    """Steps in which the learning rate rises to its largest."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Whether the learning rate is cooled down to a tenth, by a half cosine, or stays."""
    weight_decay: float = Field(default=0.1, ge=0, le=10)
    """Decoupled decay of all matrices."""
    start: int = Field(default=0, ge=0, le=1000)
    """Which draw of initial weights: another one is the placebo."""

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.hidden % (2 * self.heads):
            raise wrong(
                f"expected a multiple of 2 × heads, {2 * self.heads}, as heads have rotary pairs", field="hidden"
            )
        if self.heads % self.key_heads:
            raise wrong(f"expected a divisor of heads, {self.heads}", field="key_heads")
        special = [
            name
            for name, other in (("position", self.position == "nope"), ("qk_norm", self.qk_norm),
                                ("norm", self.norm == "layer"), ("feed_forward", self.feed_forward == "plain"))
            if other
        ]  # fmt: skip
        if len(special) > 1:
            raise wrong(f"no architecture of transformers has {' and '.join(special)} together", field=special[-1])
        if self.position == "yarn" and self.context / self.yarn_factor < 8:
            raise wrong("stretches fewer than 8 positions to the context; lower it", field="yarn_factor")
        return self

    @property
    def tokens(self) -> int:
        """Tokens that the model is trained on, repeated ones included."""
        return self.steps * self.batch * self.context
