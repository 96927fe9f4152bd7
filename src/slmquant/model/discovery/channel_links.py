"""Finds the input channels of later linears that follow the output channels of one linear.

The source's output is replaced by random numbers, and each sequence of a batch multiplies another set of its rows by
distinct factors: none, all, the rows whose index has its k-th bit set, and the rows whose index has not. An input
channel may depend on more than the row that it follows, e.g. on its gate. As two indices differ in some bit, there is a
sequence in which the row is scaled and its companion is not (and among three companions, one that is scaled by
itself). If several rows qualify, one of them is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slmquant.model.discovery.block_replay import BlockReplay
from slmquant.model.linears import out_features

TOKEN_SCALES = (1.0, 1.0, 0.1, 10.0, 1e3, 1.0)
"""Magnitude of the numbers that replace the source's output, per token; their count is the sequence length."""

_CANDIDATE_TOLERANCE = 1e-11
_TOLERANCE = 1e-9
_SEED = 20251117


def batch_size(rows: int) -> int:
    """Number of sequences needed to distinguish `rows` output channels."""
    return 2 + 2 * max(rows - 1, 1).bit_length()


def followed_rows(replay: BlockReplay, source: str, targets: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The row that each input channel follows, for each target that follows the source in all of its channels.

    Args:
        replay: A block, recorded with at least `batch_size(rows of source)` sequences of `len(TOKEN_SCALES)` tokens.
        source: The linear whose output channels are scaled.
        targets: Names, within the block, of linears that may follow.
    """
    rows = out_features(replay.block.get_submodule(source))
    generator = torch.Generator().manual_seed(_SEED)
    factors = _distinct_factors(rows, generator).to(replay.device)
    numbers = _numbers(rows, generator).to(replay.device).expand(replay.batch, -1, -1)
    chosen = _row_sets(rows, replay.batch).to(replay.device)

    scaled = torch.where(chosen, factors, 1.0)
    run = replay.run(targets, replace_outputs={source: numbers}, scale_outputs={source: scaled})
    followed = {}
    for target in targets:
        received = run.inputs.get(target)
        if received is None or not _one_per_token(received, replay):
            continue
        row_of = _candidates(received.reshape(replay.batch, len(TOKEN_SCALES), -1), factors, chosen)
        if row_of is not None and _confirmed(replay, source, target, row_of, factors, numbers):
            followed[target] = tuple(row_of.tolist())
    return followed


def _distinct_factors(count: int, generator: torch.Generator) -> Tensor:
    """Factors between 2^-½ and 2^½ in random order; no two are close, and none is a product of others."""
    jitter = torch.rand(count, dtype=torch.float64, generator=generator)
    exponents = (torch.randperm(count, generator=generator) + 0.5 * jitter) / count - 0.5
    return exponents.exp2()


def _numbers(rows: int, generator: torch.Generator) -> Tensor:
    """Random numbers, `(seq, rows)`: both signs, several magnitudes; all positive for one token."""
    numbers = torch.randn(len(TOKEN_SCALES), rows, dtype=torch.float64, generator=generator)
    numbers[1] = numbers[1].abs()
    return numbers * torch.tensor(TOKEN_SCALES, dtype=torch.float64)[:, None]


def _row_sets(rows: int, batch: int) -> Tensor:
    """Mask of the rows that each sequence scales, `(batch, rows)`."""
    bits = max(rows - 1, 1).bit_length()
    numbers = torch.arange(rows)
    sets = torch.zeros(batch, rows, dtype=torch.bool)
    sets[1] = True
    for bit in range(bits):
        sets[2 + 2 * bit] = (numbers >> bit & 1).bool()
        sets[3 + 2 * bit] = ~sets[2 + 2 * bit]
    return sets


def _one_per_token(received: Tensor, replay: BlockReplay) -> bool:
    return received.numel() == replay.batch * len(TOKEN_SCALES) * received.shape[-1]


def _candidates(received: Tensor, factors: Tensor, chosen: Tensor) -> Tensor | None:
    """For each channel of `received`, `(batch, seq, channels)`, the row whose factor it shows most often.

    Read at the first token at which the channel is not 0. None if some channel shows no row's factor.
    """
    baseline = received[0]
    token = (baseline != 0).double().argmax(dim=0)
    ratio = received.gather(1, token.expand(len(received), 1, -1))[:, 0] / baseline.gather(0, token[None])[0]

    ordered, order = factors.sort()
    above = torch.searchsorted(ordered, ratio.nan_to_num(0.0)).clamp(1, len(ordered) - 1) if len(ordered) > 1 else 0
    nearest = above - ((ratio / ordered[above - 1]).log2().abs() < (ratio / ordered[above]).log2().abs()).long()
    row = order[nearest]
    shown = ((ratio / factors[row] - 1).abs() < _CANDIDATE_TOLERANCE) & chosen.gather(1, row)
    row = torch.where(shown, row, -1)

    votes = ((row[:, None] == row[None]) & shown).sum(dim=1)
    best = votes.argmax(dim=0, keepdim=True)
    return row.gather(0, best)[0] if bool((votes.gather(0, best) > 0).all()) else None


def _confirmed(replay: BlockReplay, source: str, target: str, row_of: Tensor, factors: Tensor, numbers: Tensor) -> bool:
    """Scale only the candidate rows and check that every channel changes by its row's factor at every token."""
    scaled = replay.ones(len(factors))
    scaled[1, row_of] = factors[row_of]
    run = replay.run((target,), replace_outputs={source: numbers}, scale_outputs={source: scaled})
    received = run.inputs[target].reshape(replay.batch, len(TOKEN_SCALES), -1)
    expected = received[0] * factors[row_of]
    return bool(((received[1] - expected).abs() <= _TOLERANCE * expected.abs()).all())
