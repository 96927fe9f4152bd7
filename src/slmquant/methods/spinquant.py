"""SpinQuant: learns the rotations of the residual stream and of the heads, then rounds with GPTQ.

Liu, Zhao, Fedorov, Soran, Choudhary, Krishnamoorthi, Chandra, Tian, Blankevoort, "SpinQuant: LLM Quantization with
Learned Rotations", ICLR 2025, arXiv 2405.16406. All rotations leave the full-precision model alone, but not the
rounded one: R1 (residual stream) and R2 (heads) minimise its loss, `argmin_R L(R₁, R₂ | W, X)` over orthogonal matrices
(eq. 2), by Cayley SGD (eq. 3; Li, Fuxin, Todorovic, ICLR 2020, arXiv 2002.01113), with activations rounded and weights
not, which the paper found best before GPTQ. R3 and R4 are online Hadamard matrices, as in QuaRot, whose random R1 and
R2 are where learning starts.

No weight is turned while learning. With gains folded, turning and rounding the input `x` of linears is the same as
giving them `Q(x R) Rᵀ`, so hooks on their inputs suffice, and only rotations have gradients: through `Q` straight, as
if it were the identity.

Deviations:
    * `paper` follows the authors' published script where we could read it: 100 iterations of 8 × 2048 tokens, learning
      rate 1.5, no momentum, steps bounded by `1 / ‖W‖₁`. It decays by a cosine, as there; the paper's text has it
      decay linearly. `fast` takes fewer iterations of fewer tokens.
    * The rotations that did best on held-out calibration windows are kept, the start among them; the authors keep the
      last. So on those windows they are never worse than where they began.
    * Activations are rounded as the scheme says (symmetric, in one scale for each token while learning, also where it
      asks for calibrated ones); the authors round asymmetrically. The cache is not rounded while learning.
    * The linear system of the Cayley transform is solved; the authors iterate, and re-orthogonalize at random.
    * R1 is kept in float16 and applied around the blocks, see `model.rotate`; QuaRot's deviations hold as well.

Cost: a forward and a backward pass for each token of each iteration, with `4 d²` multiplications more per token and
block for turning; `d²` stored numbers in 16 bits and `2 d²` multiplications per token at run time. Then QuaRot's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # as every torch program calls it

from slmquant.calib.statistics import Statistic, Statistics
from slmquant.core.hadamard import hadamard
from slmquant.core.rotation import CayleyState, DenseRotation, Rotation, cayley_sgd_step, matrix_of
from slmquant.errors import RefusedError
from slmquant.methods._base import Budget, Recipe, Work
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.methods.quarot import Rotations, install_, random_rotations, unturned_stream
from slmquant.model.activations import ActivationQuantizer
from slmquant.model.quantized import multiplying_in
from slmquant.model.relations import Relations
from slmquant.model.rotate import ResidualStream, fold_norms_
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme

_TOKENS_AT_ONCE = 1024
"""Of one forward and backward pass: the logits of more would not fit beside what the pass keeps."""


@dataclass(frozen=True)
class Schedule:
    """How long to learn.

    Attributes:
        iterations: Steps of Cayley SGD.
        tokens: Calibration tokens of a step, at least one window.
        held_out: Windows that are not learned from; at most a quarter of all.
        evaluations: How often the rotations are tried on those, evenly spaced.
        lr: Learning rate of the first step.
    """

    iterations: int
    tokens: int
    held_out: int
    evaluations: int
    lr: float = 1.5


SCHEDULES: dict[Budget, Schedule] = {
    "fast": Schedule(iterations=30, tokens=512, held_out=4, evaluations=6),
    "paper": Schedule(iterations=100, tokens=8 * 2048, held_out=16, evaluations=10),
}


@dataclass(frozen=True)
class LearnedRotation:
    """Turns a model by rotations that were learned from its own loss."""

    needs: frozenset[Statistic] = frozenset()
    recaptures: bool = True
    learns: bool = True

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Rotations are learned from the error of rounded activations, so there must be some."""
        del relations
        if scheme.activations is None:
            return (
                f"SpinQuant learns from the error of rounded activations, which {scheme} leaves in 16 bits; use quarot"
            )
        return None

    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Learn rotations and turn `work.model` by them.

        Raises:
            RefusedError: No rotation passes through the residual stream, or there are too few windows.
        """
        stream = unturned_stream(work)
        for block in stream.blocks:
            fold_norms_(work.model, block)
        install_(work, stream, learned_rotations(work, stream, SCHEDULES[work.budget]))
        return statistics


@torch.no_grad()
def learned_rotations(work: Work, stream: ResidualStream, schedule: Schedule) -> Rotations:
    """Rotations that do better than random ones on held-out windows, or those.

    Args:
        work: The work; norms of the stream were folded. The model is left as it is.
        stream: Its residual stream.
        schedule: How long to learn.

    Raises:
        RefusedError: There is but one calibration window.
    """
    windows = work.calibration.windows
    if len(windows) < 2:
        raise RefusedError("SpinQuant learns from some windows and checks on others, and was given 1; use at least 2")
    start = random_rotations(stream, work.seed)
    trial = _Trial(work, stream, start)
    held_out = windows[-max(1, min(schedule.held_out, len(windows) // 4)) :]
    learned_from = windows[: -len(held_out)]
    with trial.installed():
        losses = _learn_(trial, learned_from, held_out, schedule, work)
    best = min(losses, key=lambda iteration: losses[iteration].loss)
    work.notes.append(
        f"held-out loss with rounded activations: {losses[0].loss:.4f} with random rotations, "
        f"{losses[best].loss:.4f} after {best} iterations"
    )
    return start if best == 0 else losses[best].rotations


@dataclass(frozen=True)
class _Candidate:
    """Rotations and what they are worth."""

    loss: float
    rotations: Rotations


def _learn_(
    trial: _Trial,
    learned_from: Int[Tensor, "samples seq"],
    held_out: Int[Tensor, "held seq"],
    schedule: Schedule,
    work: Work,
) -> dict[int, _Candidate]:
    """Go downhill; the rotations tried on the held-out windows, by the iterations that they took."""
    generator = torch.Generator().manual_seed(work.seed)
    batch = max(1, schedule.tokens // learned_from.shape[1])
    every = max(1, schedule.iterations // schedule.evaluations)
    tried = {0: trial.candidate(held_out)}
    for iteration in track(range(1, schedule.iterations + 1), "learn rotations", work.progress):
        drawn = learned_from[torch.randperm(len(learned_from), generator=generator)[:batch]]
        lr = schedule.lr * (1 + math.cos(math.pi * (iteration - 1) / schedule.iterations)) / 2
        if not trial.step_(drawn, lr):
            work.notes.append(f"the loss was not finite in iteration {iteration}, where learning of rotations stopped")
            break
        if iteration % every == 0 or iteration == schedule.iterations:
            candidate = trial.candidate(held_out)
            if math.isfinite(candidate.loss):
                tried[iteration] = candidate
    return tried


class _Trial:
    """A model whose linears read turned, rounded inputs, and the rotations by which they are turned.

    Args:
        work: The work.
        stream: The residual stream of the model, its norms folded.
        start: Where rotations begin.
    """

    def __init__(self, work: Work, stream: ResidualStream, start: Rotations) -> None:
        self.model, self.dtype, self.stream = work.model, work.dtype, stream
        self.linears = work.relations.linears
        spec = work.scheme.activations
        if spec is None:
            raise ValueError(f"{work.scheme} rounds no activations; there is nothing to learn from")
        self._round = ActivationQuantizer(replace(spec, static=False), torch.float32)
        self._last: tuple[Tensor, Tensor] | None = None
        self._states = {name: _state(rotation, self.model.device) for name, rotation in _by_name(start).items()}
        self._matrices: dict[str, Tensor] = {}
        self._read_matrices()

    def candidate(self, windows: Int[Tensor, "samples seq"]) -> _Candidate:
        """The rotations as they would be stored, with their mean loss over some windows."""
        matrices = {name: state.X.cpu() for name, state in self._states.items()}
        residual = DenseRotation(matrices.pop(_RESIDUAL).half().contiguous())
        self._matrices[_RESIDUAL] = residual.values.to(self.model.device).float()
        loss = sum(float(self._loss(part)) * len(part) for part in _parts(windows)) / len(windows)
        self._read_matrices()
        return _Candidate(loss, Rotations(residual, {name: DenseRotation(X) for name, X in matrices.items()}))

    def step_(self, windows: Int[Tensor, "samples seq"], lr: float) -> bool:
        """One step of Cayley SGD on the mean loss over some windows; False where that was not finite."""
        with torch.enable_grad():
            for part in _parts(windows):
                (self._loss(part) * len(part) / len(windows)).backward()
        gradients = {name: matrix.grad for name, matrix in self._matrices.items() if matrix.grad is not None}
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients.values()):
            return False
        for name, gradient in gradients.items():
            keeps_mean = name == _RESIDUAL and self.stream.subtracts_mean
            self._states[name] = cayley_sgd_step(self._states[name], gradient.double(), lr, keeps_mean=keeps_mean)
        self._read_matrices()
        return True

    def _read_matrices(self) -> None:
        self._matrices = {name: state.X.float().clone().requires_grad_() for name, state in self._states.items()}

    def _loss(self, input_ids: Int[Tensor, "batch seq"]) -> Tensor:
        """Mean loss of the next token."""
        input_ids = input_ids.to(self.model.device)
        logits = self.model(input_ids=input_ids, use_cache=False).logits
        self._last = None
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), input_ids[:, 1:].flatten())

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within this context the model's linears read turned and rounded inputs, and no weight has a gradient."""
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
        """What is done to the input of each linear."""
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
        """`Q(x R₁) R₁ᵀ`, made once for linears that read the same tensor."""
        if self._last is None or self._last[0] is not args[0]:
            R = self._matrices[_RESIDUAL]
            self._last = args[0], self._rounded(args[0] @ R) @ R.T
        return self._last[1], *args[1:]

    def _head_input(self, name: str, size: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def turn(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            R = self._matrices[name]
            turned = (args[0].unflatten(-1, (-1, size)) @ R).flatten(-2)
            return (self._rounded(turned).unflatten(-1, (-1, size)) @ R.T).flatten(-2), *args[1:]

        return turn

    def _other_input(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        transform = hadamard(args[0].shape[-1])
        return transform.undo(self._rounded(transform.apply(args[0]))), *args[1:]

    def _rounded(self, x: Tensor) -> Tensor:
        """Rounded forward, the identity backward (Bengio et al., arXiv 1308.3432)."""
        with torch.no_grad():
            codes, scale = self._round(x)
            error: Tensor = codes * scale - x
        return x + error


_RESIDUAL = ""
"""Name of R1 among rotations that are otherwise named by the linear that reads the heads."""


def _parts(windows: Int[Tensor, "samples seq"]) -> tuple[Tensor, ...]:
    """The windows that go through the model together."""
    return torch.split(windows, max(1, _TOKENS_AT_ONCE // windows.shape[1]))


def _by_name(rotations: Rotations) -> dict[str, Rotation]:
    return {_RESIDUAL: rotations.residual, **rotations.heads}


def _state(rotation: Rotation, device: torch.device) -> CayleyState:
    X = matrix_of(rotation).to(device)
    return CayleyState(X, torch.zeros_like(X))


METHOD = Recipe(
    title="SpinQuant",
    summary="Learns the rotations of the residual stream and the heads from the loss of the rounded model, then GPTQ.",
    reference="Liu et al., ICLR 2025, arXiv 2405.16406",
    transforms=(LearnedRotation(),),
    rounding=SequentialGptq(),
)
