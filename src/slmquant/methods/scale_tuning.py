"""Scale tuning: scales and norm gains of a quantized model, tuned to the predictions of the full-precision one.

`gptq_mse+scale_tuning` rounds by GPTQ-MSE, leaves the codes as they are, and minimises the divergence itself,

    L(θ) = E[KL(p ‖ q_θ)]        p: full precision, q: quantized, both over the next token

by AdamW over the relative changes θ of all stored floats of the scales (`d` and `dmin` of GGUF's super-blocks; scale
and shift of its other types; scales of groups and channels) and of the gains and biases of norms. A file takes no byte
more. Rounding methods minimise the error of single layers; here an error that the model does not mind costs nothing,
and layers may compensate each other.

Learning end to end over scales alone is the second phase of EfficientQAT (Chen et al., ACL 2025, arXiv 2407.11062),
from text; distillation by divergence is that of LLM-QAT (Liu et al., Findings of ACL 2024, arXiv 2305.17888).

Windows to learn on are drawn from the calibration corpus, beside those that rounded the weights. Others, the gate,
are only measured: the state with the least divergence on them is kept, which may be the one without tuning.

Deviations:
    * θ is relative to each scale, so one step size suits all of them; EfficientQAT has the scales themselves.
    * Stored scales are rounded to float16 (as files hold them) before every pass; gradients pass through unchanged.

Budgets: `fast` learns from 64 windows, `paper` from 256, each seen once.

Cost: two forward passes and a backward pass over the windows. Memory: weights in float32, and the activations of one
block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.calib.texts import GATE_WINDOWS, draw_texts
from slmquant.core.divergence import divergence_loss
from slmquant.methods.common.changeable import Changeable, Changes, install_, learning_weights
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.work import Work
from slmquant.methods.rtn import Nearest
from slmquant.model.computing.modes import attending_in, mode_of
from slmquant.model.computing.products import onednn_products
from slmquant.model.computing.quantized_model import QuantizedModel
from slmquant.model.running.output_head import head_logits
from slmquant.model.running.recomputing import recomputing
from slmquant.model.running.trial import Trial
from slmquant.progress import track
from slmquant.schemes.scheme import Scheme
from slmquant.store.record import Budget

_HEAD_ELEMENTS = 1 << 23
"""Logits of one part of a batch: 32 MiB of float32."""


@dataclass(frozen=True)
class Settings:
    """How long and how fast to learn.

    Attributes:
        windows: Number of windows, each seen once.
        batch_tokens: Tokens of a step.
        rate: First step size of AdamW, relative to the scales; it falls to 0 along a half cosine.
        looks: How often the gate is measured.
    """

    windows: int
    batch_tokens: int = 1024
    rate: float = 2e-4
    looks: int = 4


SETTINGS: dict[Budget, Settings] = {"fast": Settings(64), "paper": Settings(256, looks=8)}


@dataclass(frozen=True)
class ScaleTuning:
    """Tunes scales, norm gains and biases end to end.

    Attributes:
        settings: Settings of each budget.
    """

    settings: Mapping[Budget, Settings] = field(default_factory=lambda: SETTINGS)

    def refusal(self, scheme: Scheme) -> str | None:
        """Refuse what gradients do not pass through, and schemes without scales."""
        if scheme.kv is not None:
            return f"it learns through keys and values, which {scheme} rounds; leave KV out"
        if scheme.activations is not None and scheme.activations.block_size is not None:
            return f"it needs activations with one scale for each token, and {scheme} has them in blocks"
        if not scheme.weight_specs:
            return f"it tunes scales of weights, and {scheme} has none"
        return None

    def windows(self, budget: Budget) -> int:
        """Those to learn from, and the gate."""
        return self.settings[budget].windows + GATE_WINDOWS

    def begin(self, work: Work) -> ScaleTuner:
        """Keep the final hidden states of the full-precision model on all windows."""
        settings = self.settings[work.budget]
        texts = draw_texts(work.calibration, settings.windows)
        work.progress.start("run full precision", None)
        every = Trial(work.model, torch.cat([texts.gate, texts.learning]), mode_of(work.dtype))
        gate, learning = every.split(len(texts.gate))
        return ScaleTuner(settings, learning, gate)


class ScaleTuner:
    """Tunes one quantized model.

    Args:
        settings: How long and how fast to learn.
        learning: The windows to learn on.
        gate: The windows that decide which state is kept.
    """

    def __init__(self, settings: Settings, learning: Trial, gate: Trial) -> None:
        self._settings, self._learning, self._gate = settings, learning, gate

    def tune_(self, quantized: QuantizedModel, work: Work) -> QuantizedModel:
        """Tune the model in place; a note says what the gate gained."""
        state = Changeable(quantized)
        products = onednn_products() if work.dtype == torch.bfloat16 else nullcontext()
        with learning_weights(quantized) as weights, products:
            state.take_at_once_(weights, work.relations.linears)
            start = float(self._gate.divergence({}).mean())
            best, least = state.changes(), start
            for changes in self._learn(state, weights, work):
                now = float(self._gate.divergence({}).mean())
                if now < least:
                    best, least = changes, now
            state.set_(best)
            state.put_(weights)
        work.notes.append(f"scale tuning: divergence on text set aside {start:.4f} before, {least:.4f} after")
        codes = state.codes()
        install_(quantized, codes)
        return replace(quantized, weights=codes, notes=tuple(work.notes))

    def _learn(self, state: Changeable, weights: Mapping[str, Tensor], work: Work) -> Iterator[Changes]:
        """Learn, and yield the state a few times; it ends early if a loss is not finite."""
        settings = self._settings
        per_step = max(1, settings.batch_tokens // self._learning.windows.shape[1])
        order = torch.randperm(len(self._learning.windows), generator=torch.Generator().manual_seed(work.seed))
        steps = order.split(per_step)
        looks = {round(len(steps) * (look + 1) / settings.looks) for look in range(settings.looks)}
        adam = torch.optim.AdamW(list(state.parameters()), lr=settings.rate, weight_decay=0.0)
        for number, samples in enumerate(track(steps, "tune scales", work.progress), 1):
            for group in adam.param_groups:
                group["lr"] = settings.rate * (1 + math.cos(math.pi * (number - 1) / len(steps))) / 2
            state.put_(weights)
            if not math.isfinite(_backward(work.model, work.relations.blocks, self._learning, samples, work.dtype)):
                work.notes.append(f"scale tuning: the loss of step {number} was not finite; it stopped there")
                return
            state.take_gradients_(weights)
            adam.step()
            adam.zero_grad()
            if number in looks:
                state.put_(weights)
                yield state.changes()


def _backward(
    model: PreTrainedModel, blocks: Sequence[str], learning: Trial, samples: Int[Tensor, " batch"], dtype: torch.dtype
) -> float:
    """Add the gradients of the mean divergence on some windows; returns that divergence.

    Blocks are computed again for their gradients, and the head sees some tokens at a time: activations and logits
    would take most of the memory.
    """
    rows, total = max(16, _HEAD_ELEMENTS // learning.vocabulary), 0.0
    windows, exact = learning.windows[samples], learning.states[samples].flatten(0, 1)
    attention = partial(attending_in, dtype)
    with torch.enable_grad(), attention(), recomputing(model, blocks, attention):
        states = model.get_decoder()(input_ids=windows.to(model.device), use_cache=False)[0]
        ends, gradients = states.detach().flatten(0, 1), []
        for known, now in zip(exact.split(rows), ends.split(rows), strict=True):
            leaf = now.clone().requires_grad_()
            loss = divergence_loss(learning.logits(known), head_logits(model, leaf)) / len(ends)
            loss.backward()
            gradients.append(leaf.grad)
            total += float(loss.detach())
        states.backward(torch.cat(gradients).view_as(states))
    return total


METHOD = Recipe(
    title="Scale tuning",
    summary="Tunes scales and norm gains of what another method rounded, end to end, by the divergence itself.",
    reference="ours; cf. Chen et al., ACL 2025, arXiv 2407.11062",
    rounding=Nearest(),
    tuning=ScaleTuning(),
)
