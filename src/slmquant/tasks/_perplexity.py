"""Perplexity of a text, and divergence from the full-precision model on it, in one forward pass.

The protocol of the GPTQ paper: the text is tokenized once and cut into windows that do not overlap; the tail
is dropped; perplexity is exp of the mean negative log-likelihood over every window's predictions.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens, window_bos
from slmquant.core.divergence import log_normalize_, next_token_nll, token_divergence_
from slmquant.errors import DataError, NumericalError
from slmquant.files import atomic_file
from slmquant.model.head import OutputHead
from slmquant.store.record import DataCard, Metric, TaskSpec
from slmquant.tasks._base import EvalContext, TaskResult

__all__ = ["logit_rows", "measure", "reference_path"]

METRIC_VERSION = 1
"""Of perplexity and the divergences; raised when their definition changes."""

_WINDOW_TOKENS = 2048
_BLOCK_ELEMENTS = 1 << 24
"""Largest block of float32 logits: 64 MiB."""


def logit_rows(vocab_size: int) -> int:
    """How many tokens' logits are computed at a time."""
    return max(16, min(512, _BLOCK_ELEMENTS // vocab_size))


@dataclass(frozen=True)
class _Windows:
    """A text as token ids, with what a figure measured on it must say."""

    ids: Int[Tensor, "windows seq"]
    protocol: str
    card: DataCard


@dataclass(frozen=True)
class _Scores:
    """Per-token results; the divergences are None where the reference itself was measured."""

    nll: Float[Tensor, "windows predictions"]
    forward: Float[Tensor, "windows predictions"] | None
    reverse: Float[Tensor, "windows predictions"] | None
    agrees: Float[Tensor, "windows predictions"] | None


def reference_path(corpus: str, context: EvalContext, spec: TaskSpec) -> Path:
    """Where the full-precision model's final hidden states on a corpus are kept.

    Raises:
        DataError: The corpus is not to be had.
    """
    key = {
        "model": context.model_sha256,
        "corpus": load_corpus(corpus, context.data_dir, context.progress).card.sha256,
        "window": _window_tokens(context),
        "limit": spec.limit,
        "dtype": str(context.dtype),
        "device": context.device.type,
        "torch": torch.__version__,
        "version": METRIC_VERSION,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return context.cache_dir / "reference" / f"{digest}.safetensors"


@torch.inference_mode()
def measure(corpus: str, context: EvalContext, spec: TaskSpec) -> TaskResult:
    """Measure the first `spec.limit` windows of a corpus.

    The full-precision model leaves its states for later cells and gets no divergence, as it is the yardstick.

    Raises:
        DataError: The text is absent or shorter than a window, or the full-precision model has not been
            measured on it yet.
        NumericalError: A loss is not finite.
    """
    windows = _windows(corpus, context, spec)
    path = reference_path(corpus, context, spec)
    if not context.is_reference and not path.exists():
        raise DataError(
            f"{spec} needs the full-precision model's states to compare with, and they are not in "
            f"{context.cache_dir}; measure the unquantized model on {spec} first"
        )
    scores = _score(spec.name, context, windows.ids, path)
    return TaskResult(metrics=_metrics(scores, spec, windows.protocol), data=(windows.card,))


def _window_tokens(context: EvalContext) -> int:
    config = context.model.config.get_text_config()
    return min(_WINDOW_TOKENS, getattr(config, "max_position_embeddings", None) or _WINDOW_TOKENS)


def _windows(name: str, context: EvalContext, spec: TaskSpec) -> _Windows:
    corpus = load_corpus(name, context.data_dir, context.progress)
    window, bos = _window_tokens(context), window_bos(context.tokenizer)
    tokens = text_tokens(context.tokenizer, corpus.text)
    length = window if bos is None else window - 1
    available = len(tokens) // length
    if available == 0:
        raise DataError(f"{name} has {len(tokens)} tokens, fewer than one window of {window}; use a longer text")
    ids = tokens[: available * length].view(available, length)[: spec.limit]
    if bos is not None:
        ids = torch.cat((torch.full((len(ids), 1), bos), ids), dim=1)
        opening = "BOS before every window"
    else:
        starts = int(tokens[0]) == context.tokenizer.bos_token_id
        opening = "BOS at the start of the text" if starts else "no BOS"
    protocol = f"{name} tokenized once, windows of {window}, stride {length}, tail dropped, {opening}"
    return _Windows(ids, f"{protocol}, {len(ids)} of {available} windows", corpus.card)


def _score(name: str, context: EvalContext, ids: Int[Tensor, "windows seq"], path: Path) -> _Scores:
    """Run the model over all windows, writing the reference's states to `path` or comparing with them."""
    own = OutputHead(context.model)
    yardstick = None if context.is_reference else OutputHead(context.model, context.reference_head)
    rows: list[Tensor] = []
    kept: list[Tensor] = []
    batch_windows = max(1, _WINDOW_TOKENS // ids.shape[1])
    context.progress.start(f"{name}: windows", len(ids))
    for start in range(0, len(ids), batch_windows):
        batch = ids[start : start + batch_windows].to(context.device)
        hidden = own.hidden(batch)
        if yardstick is None:
            kept.append(hidden.cpu())
            known = None
        else:
            known = _states(path, start, start + len(batch)).to(context.device)
        for index in range(len(batch)):
            reference = None if known is None or yardstick is None else (yardstick, known[index])
            found = _score_window(own, hidden[index], batch[index], reference, logit_rows(_vocab(context)))
            _check_finite(found[0], name, start + index)
            rows.append(found)
            context.progress.advance()
    if kept:
        with atomic_file(path) as temporary:
            save_file({"hidden": torch.cat(kept)}, temporary)
    stacked = torch.stack(rows, dim=1)
    if yardstick is None:
        return _Scores(stacked[0], None, None, None)
    return _Scores(stacked[0], stacked[1], stacked[2], stacked[3])


def _vocab(context: EvalContext) -> int:
    return int(context.model.config.get_text_config().vocab_size)


def _score_window(
    own: OutputHead,
    hidden: Float[Tensor, "seq hidden"],
    ids: Int[Tensor, " seq"],
    reference: tuple[OutputHead, Float[Tensor, "seq hidden"]] | None,
    block: int,
) -> Float[Tensor, "figures predictions"]:
    """Per prediction: NLL, and with a reference also both divergences and agreement (0 or 1)."""
    pieces = []
    predictions = len(ids) - 1
    for start in range(0, predictions, block):
        stop = min(start + block, predictions)
        log_probs = log_normalize_(own.logits(hidden[start:stop]))
        figures = [next_token_nll(log_probs, ids[start + 1 : stop + 1])]
        if reference is not None:
            head, states = reference
            found = token_divergence_(log_normalize_(head.logits(states[start:stop])), log_probs)
            figures += [found.forward, found.reverse, found.agrees.float()]
        pieces.append(torch.stack(figures).cpu())
    return torch.cat(pieces, dim=1)


def _states(path: Path, start: int, stop: int) -> Float[Tensor, "windows seq hidden"]:
    try:
        with safe_open(path, framework="pt") as file:
            states: Tensor = file.get_slice("hidden")[start:stop]
            return states
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"reference states {path} cannot be read ({error}); delete the file and measure them again"
        ) from error


def _check_finite(nll: Float[Tensor, " predictions"], name: str, window: int) -> None:
    bad = int((~torch.isfinite(nll)).sum())
    if bad:
        raise NumericalError(
            f"the loss of window {window} of {name} is not finite at {bad} of {len(nll)} predictions; "
            "the quantized model overflows: use more bits, smaller groups, or evaluate in float32"
        )


def _metrics(scores: _Scores, spec: TaskSpec, protocol: str) -> tuple[Metric, ...]:
    def metric(
        name: str,
        value: float,
        unit: str,
        higher_is_better: bool | None,
        n: int,
        stderr: float | None = None,
    ) -> Metric:
        return Metric(
            name=name,
            value=value,
            unit=unit,
            higher_is_better=higher_is_better,
            task=str(spec),
            n=n,
            stderr=stderr,
            version=METRIC_VERSION,
            protocol=protocol,
        )

    loss, loss_stderr = clustered_mean(scores.nll)
    perplexity = math.exp(loss)
    # Delta method: a small error e of the mean loss changes the perplexity by perplexity · e.
    stderr = None if loss_stderr is None else perplexity * loss_stderr
    metrics = [metric("perplexity", perplexity, "1", False, scores.nll.numel(), stderr)]
    if scores.forward is None or scores.reverse is None or scores.agrees is None:
        return tuple(metrics)

    finite = torch.isfinite(scores.forward) & torch.isfinite(scores.reverse)
    n = int(finite.sum())
    if n:
        forward = scores.forward.masked_fill(~finite, torch.nan)
        kl_mean, kl_stderr = clustered_mean(forward)
        median, p99 = forward[finite].double().quantile(torch.tensor([0.5, 0.99], dtype=torch.double)).tolist()
        reverse_mean, reverse_stderr = clustered_mean(scores.reverse.masked_fill(~finite, torch.nan))
        agreement, agreement_stderr = clustered_mean(scores.agrees.masked_fill(~finite, torch.nan))
        metrics += [
            metric("kl_mean", kl_mean, "nats", False, n, kl_stderr),
            metric("kl_median", median, "nats", False, n),
            metric("kl_p99", p99, "nats", False, n),
            metric("kl_reverse_mean", reverse_mean, "nats", False, n, reverse_stderr),
            metric("top1_agreement", agreement, "ratio", True, n, agreement_stderr),
        ]
    if n < finite.numel():
        metrics.append(metric("kl_nonfinite", finite.numel() - n, "count", False, finite.numel()))
    return tuple(metrics)


def clustered_mean(values: Float[Tensor, "clusters items"]) -> tuple[float, float | None]:
    """Mean over all items that are not NaN, and its standard error with items of one cluster dependent.

    Neighbouring tokens of a window share their text, so the windows and not the tokens are the independent
    draws. The error is that of a ratio estimator, √(C/(C−1) · Σ_c (S_c − mean·n_c)²) / n; a single cluster
    has none.
    """
    present = ~values.isnan()
    counts = present.sum(dim=1).double()
    sums = values.double().nan_to_num(0.0).sum(dim=1)
    total = counts.sum()
    mean = sums.sum() / total
    clusters = len(values)
    if clusters < 2:
        return float(mean), None
    spread = ((sums - mean * counts) ** 2).sum() * clusters / (clusters - 1)
    return float(mean), float(spread.sqrt() / total)
