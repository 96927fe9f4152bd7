"""Learns rotations: a model whose linears read rotated, rounded inputs.

No weight is rotated while learning. With gains folded, rotating and rounding the input `x` of linears is the same as
giving them `Q(x R) Rᵀ`, so hooks on their inputs suffice, and only rotations have gradients.

Rounding adds an error `s u` to a token: its scale `s` (the largest magnitude divided by the top code) times a sawtooth
`u` of mean 0. A rotation changes `s` a little and `u` completely, so the expected loss depends on `s` alone, and the
gradient has to pass through it (`scale`). With `s` held constant (`frozen`), as in the code of SpinQuant's authors, a
rotation only rotates errors whose direction is random already, which changes nothing in the mean.
`dithered` replaces `u` by random noise, which makes the loss differentiable, for tests and measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.core.hadamard import hadamard
from slmquant.core.rotation import CayleyState, DenseRotation, Rotation, cayley_sgd_step, matrix_of
from slmquant.core.straight_through import dithered_tokens, fake_quantize_blocks, fake_quantize_tokens
from slmquant.methods.common.work import Work
from slmquant.model.computing.activations import activation_elements
from slmquant.model.computing.linear import multiplying_in
from slmquant.model.structure import ResidualStream

_TOKENS_AT_ONCE = 1024
"""Tokens of one forward and backward pass: with more, logits and saved activations would not fit in memory."""

Gradient = Literal["scale", "frozen", "dithered"]
"""Kind of gradient; see the module's docstring."""


@dataclass(frozen=True)
class Rotations:
    """The rotations of a model that can be chosen; the others are fixed by its shapes.

    Attributes:
        residual: R1.
        heads: R2, by name of the linear that reads the heads.
    """

    residual: Rotation
    heads: Mapping[str, Rotation]


@dataclass(frozen=True)
class Candidate:
    """Rotations and their loss.

    Attributes:
        losses: Mean loss of each window.
        rotations: The rotations in the precision in which they are stored.
    """

    losses: Float[Tensor, " windows"]
    rotations: Rotations

    @property
    def loss(self) -> float:
        """Mean loss of the next token over all windows."""
        return float(self.losses.mean())


class Trial:
    """A model whose linears read rotated, rounded inputs, with the rotations as parameters.

    Args:
        work: The work.
        stream: The residual stream of the model, its norms folded.
        start: Initial rotations.
        gradient: Kind of gradient.
        clip: Share of a token's largest magnitude that its scale covers, for integers.
    """

    def __init__(
        self,
        work: Work,
        stream: ResidualStream,
        start: Rotations,
        gradient: Gradient = "scale",
        clip: float = 1.0,
    ) -> None:
        self.model, self.dtype, self.stream = work.model, work.dtype, stream
        self.linears = work.relations.linears
        spec = work.scheme.activations
        if spec is None:
            raise ValueError(f"{work.scheme} rounds no activations; there is nothing to learn from")
        self._spec, self._elements = spec, activation_elements(spec)
        self.gradient, self.clip = gradient, clip if spec.format == "INT" else 1.0
        self.noise = torch.Generator(self.model.device)
        self._last: tuple[Tensor, Tensor] | None = None
        self.states = {name: _state(rotation, self.model.device) for name, rotation in _by_name(start).items()}
        self.matrices: dict[str, Tensor] = {}
        self._read_matrices()

    def candidate(self, windows: Int[Tensor, "samples seq"]) -> Candidate:
        """The rotations in their stored precision, with their loss on some windows.

        Integers are dithered, with the same noise for every candidate; other formats are rounded.
        """
        matrices = {name: state.X.cpu() for name, state in self.states.items()}
        residual = DenseRotation(matrices.pop(RESIDUAL).half().contiguous())
        self.matrices[RESIDUAL] = residual.values.to(self.model.device).to(self._float)
        with self._judging():
            losses = torch.cat([self.losses(part) for part in parts(windows)])
        self._read_matrices()
        return Candidate(losses, Rotations(residual, {name: DenseRotation(X) for name, X in matrices.items()}))

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Within this context integers are dithered."""
        gradient = self.gradient
        if self._spec.format == "INT":
            self.gradient = "dithered"
            self.noise.manual_seed(0)
        try:
            yield
        finally:
            self.gradient = gradient

    def gradients(self, windows: Int[Tensor, "samples seq"]) -> dict[str, Tensor]:
        """Gradient of the mean loss over some windows, by rotation."""
        self._read_matrices()
        with torch.enable_grad():
            for part in parts(windows):
                (self.losses(part).sum() / len(windows)).backward()
        return {name: matrix.grad for name, matrix in self.matrices.items() if matrix.grad is not None}

    def step_(self, windows: Int[Tensor, "samples seq"], share: float, head_share: float) -> bool:
        """Take one step of Cayley SGD on the mean loss over some windows; False if a gradient was not finite.

        Args:
            windows: The windows of the step.
            share: Step of R1, as a share of the longest possible step.
            head_share: The same for R2.
        """
        gradients = self.gradients(windows)
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values()):
            return False
        for name, gradient in gradients.items():
            lr, keeps_mean = (share, self.stream.subtracts_mean) if name == RESIDUAL else (head_share, False)
            self.states[name] = cayley_sgd_step(
                self.states[name], gradient.double(), lr, keeps_mean=keeps_mean, relative=True
            )
        self._read_matrices()
        return True

    def losses(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, " batch"]:
        """Mean loss of the next token in each window."""
        input_ids = input_ids.to(self.model.device)
        logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1]
        self._last = None
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none")
        means: Tensor = losses.unflatten(0, (len(input_ids), -1)).mean(dim=1)
        return means

    @property
    def _float(self) -> torch.dtype:
        return self.model.dtype

    def _read_matrices(self) -> None:
        matrices = {name: state.X.to(self._float) for name, state in self.states.items()}
        self.matrices = {name: matrix.clone().requires_grad_() for name, matrix in matrices.items()}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within this context the model's linears read rotated, rounded inputs, and no weight has a gradient."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        hooks = [self.model.get_submodule(name).register_forward_pre_hook(hook) for name, hook in self._hooks()]
        self.model.requires_grad_(False)
        try:
            with multiplying_in(self.model.base_model, self.dtype):
                yield
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in trained:
                parameter.requires_grad_(True)

    def _hooks(self) -> Iterator[tuple[str, Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]]]:
        """Name and input hook of each linear."""
        readers = {name for block in self.stream.blocks for norm in block.norms for name in norm.readers}
        heads = {found.target: found.size for block in self.stream.blocks for found in block.heads}
        for name in self.linears:
            if name in readers:
                yield name, self._stream_input
            elif name in heads:
                yield name, self._head_input(name, heads[name])
            else:
                yield name, self._other_input

    def _stream_input(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """`Q(x R₁) R₁ᵀ`, computed once for linears that read the same tensor."""
        if self._last is None or self._last[0] is not args[0]:
            R = self.matrices[RESIDUAL]
            self._last = args[0], self._rounded(args[0] @ R) @ R.T
        return self._last[1], *args[1:]

    def _head_input(self, name: str, size: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def turn(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            R = self.matrices[name]
            turned = (args[0].unflatten(-1, (-1, size)) @ R).flatten(-2)
            return (self._rounded(turned).unflatten(-1, (-1, size)) @ R.T).flatten(-2), *args[1:]

        return turn

    def _other_input(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        transform = hadamard(args[0].shape[-1])
        return transform.undo(self._rounded(transform.apply(args[0]))), *args[1:]

    def _rounded(self, x: Tensor) -> Tensor:
        """Rounded forward; backward as `gradient` says."""
        block = self._spec.block_size
        if self.gradient == "dithered":
            if block is not None:
                raise ValueError("only tokens with one scale each can be dithered")
            noise = torch.rand(x.shape, generator=self.noise, dtype=x.dtype, device=x.device) - 0.5
            return dithered_tokens(x, self._elements, noise, self.clip)
        if self.gradient == "frozen":
            with torch.no_grad():
                error = self._run(x) - x
            return x + error
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        if (block := self._spec.block_size) is not None:
            return fake_quantize_blocks(x, self._elements, block, two_level=self._spec.format == "NVFP4")
        codes, scale = fake_quantize_tokens(x, self._elements, clip=self.clip)
        return codes * scale


RESIDUAL = ""
"""Name of R1; other rotations are named after the linear that reads the heads."""


def parts(windows: Int[Tensor, "samples seq"]) -> tuple[Tensor, ...]:
    """Split windows into batches that go through the model together."""
    return torch.split(windows, max(1, _TOKENS_AT_ONCE // windows.shape[1]))


def _by_name(rotations: Rotations) -> dict[str, Rotation]:
    return {RESIDUAL: rotations.residual, **rotations.heads}


def _state(rotation: Rotation, device: torch.device) -> CayleyState:
    X = matrix_of(rotation).to(device)
    return CayleyState(X, torch.zeros_like(X))
