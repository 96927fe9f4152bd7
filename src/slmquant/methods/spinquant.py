"""SpinQuant: learns the rotations of the residual stream and of the heads, then rounds with GPTQ.

Liu, Zhao, Fedorov, Soran, Choudhary, Krishnamoorthi, Chandra, Tian, Blankevoort, "SpinQuant: LLM Quantization with
Learned Rotations", ICLR 2025, arXiv 2405.16406. No rotation changes the full-precision model, but every rotation
changes the rounded one. R1 (residual stream) and R2 (heads) minimise its loss, `argmin_R L(R₁, R₂ | W, X)` over
orthogonal matrices (eq. 2), by Cayley SGD (eq. 3; Li, Fuxin, Todorovic, ICLR 2020, arXiv 2002.01113), with activations
rounded and weights not, which the paper found best before GPTQ. Learning starts from QuaRot's random R1 and R2; R3 and
R4 are online Hadamard matrices, as in QuaRot. Weights are then rounded and activations clipped as in `quarot`; the loss
during learning uses the same clipped activations.

Deviations:
    * The gradient passes through the scale of each token as well; see `common.rotation_trial`. The authors' code treats
      the scale as a constant (`STEQuantize.backward` returns no gradient of it), which leaves out the only part of the
      error that a rotation changes in the mean: that gradient and the gradient of the expected loss are nearly
      perpendicular (`benchmarks/rotation_gradient.py`). `spinquant_frozen` is SpinQuant with the authors' gradient.
    * Steps are shares of the longest step that Cayley SGD allows, `1 / ‖W‖₁`, and decay by a cosine. The authors' rate
      is 1.5, clipped at that length. On a model whose first token is massive every step is clipped, and on one without
      such a token no step is a tenth as long, so one number does not suit both.
    * Some states are compared on held-out windows. The best is kept if its loss is significantly smaller than that of
      the random rotations (paired over windows, one-sided, 5 %, corrected for the number of states), else the random
      rotations are kept. In this comparison integers are dithered instead of rounded, with the same noise for all
      states: the mean loss is the same, and differences have a sixth of the error. The authors keep the last state.
    * `paper` takes as many steps and tokens as the authors' script as far as we could read it, 100 of 8 × 2048, but
      draws the tokens from the calibration windows, repeatedly if these are few; the row states the number of distinct
      tokens. The authors use 1.6 million distinct tokens.
    * Activations are rounded as the scheme says (symmetric; while learning with one scale for each token, even if the
      scheme has calibrated scales); the authors round asymmetrically. The cache is not rounded while learning.
    * The linear system of the Cayley transform is solved; the authors iterate, and re-orthogonalize at random.
    * R1 is kept in float16 and applied around the blocks, see `rewriting.rotate`; QuaRot's deviations apply as well.

Cost: a forward and a backward pass for each token of each iteration, with `4 d²` more multiplications per token and
block for the rotation, and a forward pass over the held-out windows for each state compared; `d²` stored numbers in
16 bits and `2 d²` multiplications per token at run time. Then the cost of QuaRot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slmquant.calib.statistics import Statistic, Statistics
from slmquant.errors import RefusedError
from slmquant.methods.common.activation_clip import clip_activations_, ratio_for
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.rotation_trial import Candidate, Gradient, Rotations, Trial
from slmquant.methods.common.work import Work
from slmquant.methods.quarot import PUBLISHED_ROUNDING, install_, random_rotations, unturned_stream
from slmquant.model.rewriting.rotate import fold_norms_
from slmquant.model.structure import Relations, ResidualStream
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme
from slmquant.store.record import Budget

_LEVEL = 0.05
"""Significance level: the probability of accepting learned rotations that are no better than the random ones."""

_FEWEST = 4
"""Smallest number of windows for learning and comparing."""


@dataclass(frozen=True)
class Schedule:
    """Length of learning and step sizes.

    Attributes:
        iterations: Steps of Cayley SGD.
        tokens: Calibration tokens of a step, at least one window.
        held_out: Largest number of held-out windows; at most a quarter of all windows are held out.
        evaluations: Number of evaluations on the held-out windows, evenly spaced.
        share: First step of R1, as a share of the longest step that Cayley SGD allows.
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
    """Rotates a model by rotations learned from its own loss.

    Attributes:
        gradient: Kind of gradient; see `common.rotation_trial`.
        schedules: Schedule for each budget.
        activation_clip: Share of a token's range to which activations are clipped.
    """

    gradient: Gradient = "scale"
    schedules: Mapping[Budget, Schedule] = field(default_factory=lambda: SCHEDULES)
    activation_clip: float | Literal["published"] = "published"
    needs: frozenset[Statistic] = frozenset()
    recaptures: bool = True
    learns: bool = True

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """Refuse schemes that leave activations alone, since rotations are learned from their rounding error."""
        del relations
        if scheme.activations is None:
            return (
                f"SpinQuant learns from the error of rounded activations, which {scheme} leaves in 16 bits; use quarot"
            )
        return None

    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Learn rotations and apply them to `work.model`.

        Raises:
            RefusedError: The residual stream cannot be rotated, or there are too few windows.
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
    """Learned rotations if they are significantly better than random ones on held-out windows, else the random ones.

    Args:
        work: The work, with the norms of the stream folded. The model is unchanged.
        stream: The residual stream of its model.
        schedule: Length of learning and step sizes.
        gradient: Kind of gradient; see `common.rotation_trial`.
        clip: Share of a token's range that integers cover.

    Raises:
        RefusedError: There are fewer than four calibration windows.
    """
    windows = work.calibration.windows
    if len(windows) < _FEWEST:
        raise RefusedError(
            "SpinQuant needs at least two calibration windows to learn from and two others to compare on, "
            f"but got {len(windows)} in total; use at least {_FEWEST}"
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
    kept = "kept" if chance < _LEVEL else "not significantly better than the random ones, which were kept"
    work.notes.append(
        f"loss with activations rounded, on {count} held-out windows: {tried[0].loss:.4f} with random rotations, "
        + (f"{tried[best].loss:.4f} after {best} steps (p = {chance:.2g}), {kept}" if best else "and no state below it")
    )
    return tried[best].rotations if best and chance < _LEVEL else start


def _repetition(learned_from: Int[Tensor, "samples seq"], schedule: Schedule) -> str | None:
    """A note if more tokens are drawn than there are; else None."""
    drawn = schedule.iterations * max(schedule.tokens, learned_from.shape[1])
    if drawn <= learned_from.numel():
        return None
    return (
        f"rotations learn from {learned_from.numel()} different tokens, each seen {drawn / learned_from.numel():.1f} "
        "times; use more calibration windows for more tokens"
    )


def _chance(differences: Float[Tensor, " windows"], states: int) -> float:
    """p-value of the best state's loss if no state is better than the start (Bonferroni over the states)."""
    from scipy import stats  # takes seconds to import, and every plan names methods

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
    """Run Cayley SGD; return the rotations evaluated on the held-out windows, by iteration."""
    draws = _draws(learned_from, max(1, schedule.tokens // learned_from.shape[1]), work.seed)
    looks = {round(schedule.iterations * (look + 1) / schedule.evaluations) for look in range(schedule.evaluations)}
    tried = {0: trial.candidate(held_out)}
    for iteration in track(range(1, schedule.iterations + 1), "learn rotations", work.progress):
        decay = (1 + math.cos(math.pi * (iteration - 1) / schedule.iterations)) / 2
        if not trial.step_(next(draws), schedule.share * decay, schedule.head_share * decay):
            work.notes.append(f"learning of rotations stopped: the loss was not finite in iteration {iteration}")
            break
        if iteration in looks:
            candidate = trial.candidate(held_out)
            if math.isfinite(candidate.loss):
                tried[iteration] = candidate
    return tried


def _draws(windows: Int[Tensor, "samples seq"], batch: int, seed: int) -> Iterator[Int[Tensor, "batch seq"]]:
    """Endless batches: all windows in a random order, then in another order, and so on."""
    generator, batch = torch.Generator().manual_seed(seed), min(batch, len(windows))
    while True:
        order = torch.randperm(len(windows), generator=generator)
        for drawn in order.split(batch)[: len(windows) // batch]:
            yield windows[drawn]


METHOD = Recipe(
    title="SpinQuant",
    summary="Learns rotations of the residual stream and the heads from the rounded model's loss, then GPTQ.",
    reference="Liu et al., ICLR 2025, arXiv 2405.16406",
    transforms=(LearnedRotation(),),
    blocks=PUBLISHED_ROUNDING,
)
