"""Perplexity of a text, and divergence from the full-precision model on it, in one forward pass.

The protocol of the GPTQ paper: the text is tokenized once and split into windows that do not overlap; the tail
is dropped; perplexity is exp of the mean negative log-likelihood over every window's predictions.

*Deviations*: if not all windows are used, they are spread evenly over the text (`calib.windows.spread_windows`) instead
of taken from its start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from slmquant.cache.entries import entry_path, is_sound, lease
from slmquant.cache.write import About
from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import spread_sample
from slmquant.core.divergence import compare_, log_normalize_, next_token_nll
from slmquant.errors import CacheError, NumericalError
from slmquant.model.compatibility.context import fitting
from slmquant.model.running.output_head import OutputHead
from slmquant.store.record import DataCard, ItemOutcome, Metric, TaskSpec
from slmquant.tasks.common.contract import EvalContext, ReferenceKey, TaskResult
from slmquant.tasks.common.texts.divergence import (
    TokenFigures,
    divergence_metrics,
    figures_of,
    noise_floor_metrics,
    window_figures,
)
from slmquant.tasks.common.texts.noise_floor import floor_windows, rounded_hidden
from slmquant.tasks.common.texts.reference import FILE_VERSION, StatesToKeep, read_states
from slmquant.tasks.common.texts.token_means import METRIC_VERSION, Labels, clustered_mean

__all__ = ["logit_rows", "measure", "reference_path"]

_WINDOW_TOKENS = 2048
_BLOCK_ELEMENTS = 1 << 23
"""Largest block of float32 logits: 32 MiB."""


def logit_rows(vocab_size: int) -> int:
    """Number of tokens whose logits are computed at a time."""
    return max(16, min(512, _BLOCK_ELEMENTS // vocab_size))


@dataclass(frozen=True)
class _Windows:
    """Windows of a text as token ids, with their positions, protocol and data card."""

    ids: Int[Tensor, "windows seq"]
    positions: tuple[int, ...]
    protocol: str
    card: DataCard


@dataclass(frozen=True)
class _Scores:
    """Per-token results.

    Attributes:
        nll: Negative log-likelihood of every true next token, in nats.
        figures: Comparison with the reference; for the reference itself, comparison with itself rounded to bfloat16,
            on some of the windows (`noise_floor.floor_windows`).
    """

    nll: Float[Tensor, "windows predictions"]
    figures: TokenFigures


def reference_path(corpus: str, where: ReferenceKey, spec: TaskSpec) -> Path:
    """Cache entry of the full-precision model's final hidden states on a corpus.

    Raises:
        DataError: The corpus was not found.
    """
    key = {
        "model": where.model_sha256,
        "corpus": load_corpus(corpus, where.data_dir, where.progress).card.sha256,
        "window": _window_tokens(where.config),
        "limit": spec.limit,
        "mode": where.mode.name,
        "device": where.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "version": [METRIC_VERSION, FILE_VERSION],
    }
    return entry_path(where.cache_dir, "reference", key)


@torch.inference_mode()
def measure(corpus: str, context: EvalContext, spec: TaskSpec) -> TaskResult:
    """Measure `spec.limit` windows of a corpus, spread over it; all windows if there is no limit.

    The full-precision model's states are cached for later cells. It has no divergence, as the others are compared with
    it, but a noise floor.

    Raises:
        DataError: The text is missing or shorter than a window.
        CacheError: The full-precision model's states on it are not in the cache, or were damaged.
        NumericalError: A loss is not finite.
    """
    windows = _windows(corpus, context, spec)
    path = reference_path(corpus, context.reference_key, spec)
    if not context.is_reference and not is_sound(path):
        raise CacheError(
            f"{spec} compares with the full-precision model's states, which are not in {context.cache_dir}; "
            f"measure the unquantized model on {spec} first"
        )
    labels = Labels(str(spec), windows.protocol, windows.positions)
    if context.is_reference:
        scores = _score_reference(spec.name, context, windows, path)
        tried = tuple(windows.positions[index] for index in floor_windows(len(windows.ids)))
        divergence = noise_floor_metrics(scores.figures, replace(labels, positions=tried))
    else:
        scores = _score(spec.name, context, windows, path)
        divergence = divergence_metrics(scores.figures, labels)
    return TaskResult(
        metrics=(_perplexity(scores.nll, labels), *divergence),
        data=(windows.card,),
        items=_items(scores, labels, with_divergence=not context.is_reference),
    )


def _window_tokens(config: PreTrainedConfig) -> int:
    return fitting(_WINDOW_TOKENS, config)


def _windows(name: str, context: EvalContext, spec: TaskSpec) -> _Windows:
    corpus = load_corpus(name, context.data_dir, context.progress)
    window = _window_tokens(context.model.config)
    ids, positions, available, stride, opening = spread_sample(context.tokenizer, corpus, window, spec.limit)
    protocol = f"{name} tokenized once, windows of {window}, stride {stride}, tail dropped, {opening}"
    which = f"all {available} windows" if len(ids) == available else f"{len(ids)} of {available} windows, evenly spread"
    if len(ids) == 1:
        which += " (one window has no standard error)"
    return _Windows(ids, positions, f"{protocol}, {which}", corpus.card)


def _score_reference(name: str, context: EvalContext, windows: _Windows, path: Path) -> _Scores:
    """Run the full-precision model over all windows, and rounded to bfloat16 over some; save its states."""
    ids, with_floor = windows.ids, floor_windows(len(windows.ids))
    head, other_head = (OutputHead(context.model, dtype=context.mode.head) for _ in range(2))
    rows = logit_rows(_vocab(context))
    losses: list[Tensor] = []
    floors: list[Tensor] = []
    kept = StatesToKeep(len(ids))
    context.progress.start(f"{name}: windows", len(ids))
    for batch in ids.split(_batch_windows(ids)):
        batch = batch.to(context.device)
        for window, hidden in zip(batch, head.hidden(batch), strict=True):
            nll = _losses(head, hidden, window, rows)
            _check_finite(nll, name, windows.positions[len(losses)])
            if len(losses) in with_floor:
                other = rounded_hidden(context.model, head, window[None])[0]
                floors.append(_compared(head, hidden, other_head, other, window, rows)[1:])
            kept.add(hidden)
            losses.append(nll)
            context.progress.advance()
    kept.save(path, About(context.reference_key.model_name, f"states on {name}, {len(ids)} windows"))
    return _Scores(torch.stack(losses), TokenFigures(*torch.stack(floors, dim=1)))


def _score(name: str, context: EvalContext, windows: _Windows, path: Path) -> _Scores:
    """Run the model over all windows and compare it with the states at `path`."""
    ids = windows.ids
    head = OutputHead(context.model, dtype=context.mode.head)
    reference_head = OutputHead(context.model, context.reference_head, context.mode.head)
    rows = logit_rows(_vocab(context))
    scores: list[Tensor] = []
    context.progress.start(f"{name}: windows", len(ids))
    with lease(path):
        for batch in ids.split(_batch_windows(ids)):
            known = read_states(path, len(scores), len(scores) + len(batch)).to(context.device)
            batch = batch.to(context.device)
            for window, reference, hidden in zip(batch, known, head.hidden(batch), strict=True):
                figures = _compared(reference_head, reference, head, hidden, window, rows)
                _check_finite(figures[0], name, windows.positions[len(scores)])
                scores.append(figures)
                context.progress.advance()
    stacked = torch.stack(scores, dim=1)
    return _Scores(stacked[0], TokenFigures(*stacked[1:]))


def _batch_windows(ids: Int[Tensor, "windows seq"]) -> int:
    return max(1, _WINDOW_TOKENS // ids.shape[1])


def _vocab(context: EvalContext) -> int:
    return int(context.model.config.get_text_config().vocab_size)


def _losses(
    head: OutputHead, hidden: Float[Tensor, "seq hidden"], ids: Int[Tensor, " seq"], rows: int
) -> Float[Tensor, " predictions"]:
    """NLL of each true next token of a window."""
    parts = zip(hidden[:-1].split(rows), ids[1:].split(rows), strict=True)
    blocks = ((head.logits(states, again=True), wanted) for states, wanted in parts)
    return torch.cat([next_token_nll(log_normalize_(block), wanted).cpu() for block, wanted in blocks])


def _compared(
    reference_head: OutputHead,
    reference: Float[Tensor, "seq hidden"],
    head: OutputHead,
    hidden: Float[Tensor, "seq hidden"],
    ids: Int[Tensor, " seq"],
    rows: int,
) -> Float[Tensor, "figures predictions"]:
    """For each prediction of a window, its NLL and then its `TokenFigures`.

    The heads must be two objects, as each reuses its own block of logits.
    """
    pieces = []
    for known, states, wanted in zip(
        reference[:-1].split(rows), hidden[:-1].split(rows), ids[1:].split(rows), strict=True
    ):
        blocks = reference_head.logits(known, again=True), head.logits(states, again=True)
        compared = compare_(*blocks, wanted)
        pieces.append(torch.cat([compared.nll[None], figures_of(compared)]).cpu())
    return torch.cat(pieces, dim=1)


def _check_finite(nll: Float[Tensor, " predictions"], name: str, window: int) -> None:
    bad = int((~torch.isfinite(nll)).sum())
    if bad:
        raise NumericalError(
            f"the loss of window {window} of {name} is not finite at {bad} of {len(nll)} predictions; "
            "the quantized model overflows: use more bits, smaller groups, or evaluate in float32"
        )


def _perplexity(nll: Float[Tensor, "windows predictions"], labels: Labels) -> Metric:
    loss = clustered_mean(nll, labels.positions)
    perplexity = math.exp(loss.mean)
    # Delta method: a small error e of the mean loss changes the perplexity by perplexity · e.
    stderr = None if loss.stderr is None else perplexity * loss.stderr
    return labels.metric("perplexity", perplexity, "1", False, nll.numel(), replace(loss, stderr=stderr))


def _items(scores: _Scores, labels: Labels, with_divergence: bool) -> tuple[ItemOutcome, ...]:
    """Mean loss and divergences of each window, so that cells can be compared in pairs.

    An item's name is its window's position in the text, so that items of different samples are distinguished and
    neighbours are known.
    """
    values = {"nll_mean": scores.nll} | (window_figures(scores.figures) if with_divergence else {})
    means = {name: figure.double().nanmean(dim=1) for name, figure in values.items()}
    return tuple(
        ItemOutcome(
            task=labels.task,
            item=str(position),
            values={name: float(mean[row]) for name, mean in means.items() if not mean[row].isnan()},
        )
        for row, position in enumerate(labels.positions)
    )
