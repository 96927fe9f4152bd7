"""SpinQuant: learns the rotations of the residual stream and of the heads, then rounds with GPTQ.

Liu, Zhao, Fedorov, Soran, Choudhary, Krishnamoorthi, Chandra, Tian, Blankevoort, "SpinQuant: LLM Quantization with
Learned Rotations", ICLR 2025, arXiv 2405.16406. All rotations leave the full-precision model alone, but not the
rounded one: R1 (residual stream) and R2 (heads) minimise its loss, `argmin_R L(R₁, R₂ | W, X)` over orthogonal matrices
(eq. 2), by Cayley SGD (eq. 3; Li, Fuxin, Todorovic, ICLR 2020, arXiv 2002.01113), with activations rounded and weights
not, which the paper found best before GPTQ. R3 and R4 are online Hadamard matrices, as in QuaRot, whose random R1 and
R2 are where learning starts. Weights are then rounded and activations clipped as in `quarot`; the loss that is learned
from has the same clipped activations.

Deviations:
    * The gradient passes through the scale of each token as well; see `_rotation_trial`. The authors' code treats the
      scale as a constant (`STEQuantize.backward` returns no gradient of it), which leaves out the only part of the
      error that a rotation changes in the mean: that gradient and the one of the expected loss are as good as
      perpendicular (`benchmarks/rotation_gradient.py`). `spinquant_frozen` is SpinQuant with the authors' gradient.
    * Steps are shares of the longest that Cayley SGD admits, `1 / ‖W‖₁`, and decay by a cosine. The authors' rate is
      1.5, cut off at that length: on a model whose first token is massive every step is cut off, on one without none
      is a tenth as long, so one number does not suit both.
    * Of the states that are tried on windows that were set aside, the best is kept, if its loss there is smaller than
      that of the random rotations beyond what windows differ by (paired, one-sided, 5 %, corrected for the number of
      states); else the random ones. There whole numbers are not rounded but dithered, all states with the same noise:
      the same loss in the mean, told apart with a sixth of the error. The authors keep the last state.
    * `paper` takes as many steps and tokens as the authors' script where we could read it, 100 of 8 × 2048, but draws
      them from the calibration windows, again and again where these are few; the row says how many different tokens
      that were. The authors see 1.6 million different ones.
    * Activations are rounded as the scheme says (symmetric, in one scale for each token while learning, also where it
      asks for calibrated ones); the authors round asymmetrically. The cache is not rounded while learning.
    * The linear system of the Cayley transform is solved; the authors iterate, and re-orthogonalize at random.
    * R1 is kept in float16 and applied around the blocks, see `rewriting.rotate`; QuaRot's deviations hold as well.

Cost: a forward and a backward pass for each token of each iteration, with `4 d²` multiplications more per token and
block for turning, and a forward pass over the windows set aside for each state that is tried; `d²` stored numbers in
16 bits and `2 d²` multiplications per token at run time. Then QuaRot's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from slmquant.calib.statistics import Statistic, Statistics
from slmquant.errors import RefusedError
from slmquant.methods.common.activation_clip import clip_activations_, ratio_for
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.rotation_trial import Candidate, Gradient, Trial
from slmquant.methods.common.work import Work
from slmquant.methods.quarot import PUBLISHED_ROUNDING, Rotations, install_, random_rotations, unturned_stream
from slmquant.model.rewriting.rotate import fold_norms_
from slmquant.model.structure import Relations, ResidualStream
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme
from slmquant.store.record import Budget

_LEVEL = 0.05
"""How often a rotation that is no better than the random ones may be taken for one that is."""

_FEWEST = 4
"""Windows that suffice to learn and to compare, if barely."""


@dataclass(frozen=True)
class Schedule:
    """How long to learn.

    Attributes:
        iterations: Steps of Cayley SGD.
        tokens: Calibration tokens of a step, at least one window.
        held_out: Windows that are not learned from; at most a quarter of all.
        evaluations: How often the rotations are tried on those, evenly spaced.
        share: The first step of R1, as a share of the longest that Cayley SGD admits.
        head_share: The same for R2, whose gradients are mostly noise.
    """

    iterations: int
    tokens: int
    held_out: int = 16
    evaluations: int = 3
    share: float = 1.0
    head_share: float = 0.05


SCHEDULES: dict[Budget, Schedule] = {
    "fast": Schedule(iterations=32, tokens=1024),
    "paper": Schedule(iterations=100, tokens=8 * 2048, held_out=32, evaluations=5),
}


@dataclass(frozen=True)
class LearnedRotation:
    """Turns a model by rotations that were learned from its own loss.

    Attributes:
        gradient: What the loss is differentiated through.
        schedules: How long each budget learns.
        activation_clip: The share of a token's range to which activations are rounded.
    """

    gradient: Gradient = "scale"
    schedules: Mapping[Budget, Schedule] = field(default_factory=lambda: SCHEDULES)
    activation_clip: float | Literal["published"] = "published"
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
        schedule = self.schedules[work.budget]
        clip = ratio_for(work.scheme.activations, self.activation_clip)
        rotations = learned_rotations(work, stream, schedule, self.gradient, clip)
        install_(work, stream, rotations)
        clip_activations_(work, clip)
        return statistics


@torch.no_grad()
def learned_rotations(
    work: Work, stream: ResidualStream, schedule: Schedule, gradient: Gradient = "scale", clip: float = 1.0
) -> Rotations:
    """Rotations that do better than random ones on held-out windows beyond noise, or those.

    Args:
        work: The work; norms of the stream were folded. The model is left as it is.
        stream: Its residual stream.
        schedule: How long to learn.
        gradient: What the loss is differentiated through.
        clip: The share of a token's range that integers cover.

    Raises:
        RefusedError: There are fewer than four calibration windows.
    """
    windows = work.calibration.windows
    if len(windows) < _FEWEST:
        raise RefusedError(
            "SpinQuant learns from some windows and compares on others, at least two each, and was given "
            f"{len(windows)} windows; use at least {_FEWEST}"
        )
    count = max(2, min(schedule.held_out, len(windows) // 4))
    start = random_rotations(stream, work.seed)
    trial = Trial(work, stream, start, gradient, clip=clip)
    learned_from, held_out = windows[:-count], windows[-count:]
    if (remark := _repetition(learned_from, schedule)) is not None:
        work.notes.append(remark)
    with trial.installed():
        tried = _learn_(trial, learned_from, held_out, schedule, work)
    best = min(tried, key=lambda iteration: tried[iteration].loss)
    chance = _chance(tried[best].losses - tried[0].losses, len(tried) - 1)
    kept = "kept" if chance < _LEVEL else "not told from the random ones, which were kept"
    work.notes.append(
        f"loss with activations rounded, {count} windows set aside: {tried[0].loss:.4f} with random rotations, "
        + (f"{tried[best].loss:.4f} after {best} steps (p = {chance:.2g}), {kept}" if best else "and no state below it")
    )
    return tried[best].rotations if best and chance < _LEVEL else start


def _repetition(learned_from: Int[Tensor, "samples seq"], schedule: Schedule) -> str | None:
    """What to say where more tokens are drawn than there are."""
    drawn = schedule.iterations * max(schedule.tokens, learned_from.shape[1])
    if drawn <= learned_from.numel():
        return None
    return (
        f"rotations learn from {learned_from.numel()} different tokens, each seen {drawn / learned_from.numel():.1f} "
        "times; more calibration windows give more of them"
    )


def _chance(differences: Float[Tensor, " windows"], states: int) -> float:
    """How likely so small a loss is where no state is better than the start (Bonferroni over the states)."""
    values = differences.double().cpu().numpy()
    if states == 0 or not differences.any():
        return 1.0
    return min(1.0, states * float(stats.ttest_1samp(values, 0.0, alternative="less").pvalue))


def _learn_(
    trial: Trial,
    learned_from: Int[Tensor, "samples seq"],
    held_out: Int[Tensor, "held seq"],
    schedule: Schedule,
    work: Work,
) -> dict[int, Candidate]:
    """Go downhill; the rotations tried on the held-out windows, by the iterations that they took."""
    draws = _draws(learned_from, max(1, schedule.tokens // learned_from.shape[1]), work.seed)
    looks = {round(schedule.iterations * (look + 1) / schedule.evaluations) for look in range(schedule.evaluations)}
    tried = {0: trial.candidate(held_out)}
    for iteration in track(range(1, schedule.iterations + 1), "learn rotations", work.progress):
        decay = (1 + math.cos(math.pi * (iteration - 1) / schedule.iterations)) / 2
        if not trial.step_(next(draws), schedule.share * decay, schedule.head_share * decay):
            work.notes.append(f"the loss was not finite in iteration {iteration}, where learning of rotations stopped")
            break
        if iteration in looks:
            candidate = trial.candidate(held_out)
            if math.isfinite(candidate.loss):
                tried[iteration] = candidate
    return tried


def _draws(windows: Int[Tensor, "samples seq"], batch: int, seed: int) -> Iterator[Int[Tensor, "batch seq"]]:
    """Batches without end: all windows in a random order, then in another."""
    generator, batch = torch.Generator().manual_seed(seed), min(batch, len(windows))
    while True:
        order = torch.randperm(len(windows), generator=generator)
        for drawn in order.split(batch)[: len(windows) // batch]:
            yield windows[drawn]


METHOD = Recipe(
    title="SpinQuant",
    summary="Learns the rotations of the residual stream and the heads from the loss of the rounded model, then GPTQ.",
    reference="Liu et al., ICLR 2025, arXiv 2405.16406",
    transforms=(LearnedRotation(),),
    blocks=PUBLISHED_ROUNDING,
)
