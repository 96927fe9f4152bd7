"""How a model is built and what its parts take, as data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat

__all__ = ["Anatomy", "Frozen", "LayerFacts", "Positions", "Role", "RoleSize", "SchemeSize"]

Role = Literal["embedding", "head", "q", "k", "v", "qkv", "o", "gate", "up", "down", "norm", "other"]
"""What a parameter is for; `qkv`: queries, keys and values in one linear; `up`: also gate and up in one linear."""

Positions = Literal["rotary", "learned", "ALiBi", "none", "unknown"]
"""How attention of a layer learns where tokens stand; `none` is NoPE."""


class Frozen(BaseModel):
    """Data that does not change, and is read as strictly as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RoleSize(Frozen):
    """The parameters of one role, biases included, and their bytes under each scheme."""

    role: Role
    tensors: int
    parameters: int
    """0 for a head that is tied to the embedding."""
    stored_bytes: dict[str, int]
    """Scheme → bytes, scales and zero points included."""


class SchemeSize(Frozen):
    """Size of the whole model under a scheme, by `model.size`; without what a method adds."""

    scheme: str
    stored_bytes: int
    bpw: FiniteFloat
    remark: str | None = None
    """Which weight the scheme does not fit, and why; None if it fits all."""


class LayerFacts(Frozen):
    """How one decoder block is built."""

    name: str
    positions: Positions | None = None
    """None for a block without attention."""
    rotary_type: str | None = None
    """transformers' name of the rotary embedding, such as `default`, `yarn` or `llama3`; None without one."""
    window: int | None = None
    """Tokens that a token attends to; None for all before it."""
    query_heads: int | None = None
    """None, like the next two, for a block whose attention cannot be observed."""
    key_heads: int | None = None
    head_size: int | None = None
    qk_norm: bool = False
    gated: bool = False
    """Whether its feed-forward network has a gate."""
    biases: tuple[Role, ...] = ()
    """Roles of the linears that have a bias."""

    @property
    def group_size(self) -> int | None:
        """Query heads that share a key head: 1 without grouped queries."""
        return self.query_heads // self.key_heads if self.query_heads and self.key_heads else None


class Anatomy(Frozen):
    """How a model is built, and what its parts take."""

    architecture: str
    """transformers' `model_type`."""
    parameters: int
    hidden: int
    vocabulary: int
    context: int | None
    """Longest input in tokens; None if the configuration does not say."""
    tied: bool
    """Whether head and embedding are one parameter."""
    norms: tuple[str, ...]
    """Classes of its norms."""
    roles: tuple[RoleSize, ...]
    schemes: tuple[SchemeSize, ...]
    layers: tuple[LayerFacts, ...]

    @property
    def embedding_share(self) -> float:
        """Share of the parameters that embedding and head have."""
        return sum(size.parameters for size in self.roles if size.role in ("embedding", "head")) / self.parameters
