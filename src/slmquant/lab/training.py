"""Trains one model: AdamW, warm-up, cosine or constant; on one thread, everything drawn from seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from slmquant.cache.entries import entry_path
from slmquant.cache.write import About, writing
from slmquant.errors import DataError, NumericalError
from slmquant.lab.arms import SEPARATOR, Arm, initial
from slmquant.lab.settings import Settings
from slmquant.lab.texts import TrainingText
from slmquant.model.sources.importing import write_model
from slmquant.model.sources.resolve import TRAINED
from slmquant.progress import Progress, track

_VERSION = 1
"""Version of the training; part of a model's key."""
_BETAS = (0.9, 0.95)
_LARGEST_NORM = 1.0
_COOLED = 0.1
"""Share of the learning rate that a cosine ends with."""


@dataclass(frozen=True)
class TrainingJob:
    """A model to be trained.

    Attributes:
        arm: What it is.
        text: What it is trained on.
        cache_dir: Folder of the cache.
        device: Where it is trained.
    """

    arm: Arm
    text: TrainingText
    cache_dir: Path
    device: str = "cpu"

    @property
    def entry(self) -> Path:
        """Its entry of the cache, under a key of everything that decides its weights."""
        key = [
            _VERSION, self.arm.name, self.arm.settings.model_dump(mode="json"), self.arm.seed, self.text.entry.name,
            self.device.partition(":")[0], torch.__version__, version("transformers"),
        ]  # fmt: skip
        return entry_path(self.cache_dir, TRAINED, key)

    @property
    def name(self) -> str:
        """Name of the model, by which every command finds it: `lab-FACTOR-LEVEL-SEED-KEY`."""
        return SEPARATOR.join((self.arm.name, self.entry.name[:8]))


def train(job: TrainingJob, progress: Progress) -> None:
    """Train a model and put it into the cache, whole or not at all.

    Raises:
        DataError: The text is shorter than a window.
        NumericalError: The loss is not finite.
        CacheError: The text is gone from the cache.
    """
    torch.set_num_threads(1)
    tokenizer, tokens = job.text.read()
    model = initial(job.arm.settings, job.arm.seed)
    model.to(torch.device(job.device))  # type: ignore[arg-type]  # transformers wraps it without its types
    fit_(model, job.arm.settings, tokens, job.arm.seed, progress)
    changes = f"{job.arm.factor} {job.arm.level}, seed {job.arm.seed}"
    with writing(job.entry, About(job.name, f"model of the laboratory: {changes}")) as temporary:
        write_model(
            temporary / job.name,
            model.cpu(),
            tokenizer,
            name=job.name,
            source="lab",
            files=job.text.corpora,
            description=f"trained by the laboratory on {job.arm.settings.tokens:,} tokens: {changes}",
            rescaling=None,
            licence=None,
        )


def fit_(
    model: PreTrainedModel, settings: Settings, tokens: Int[Tensor, " tokens"], seed: int, progress: Progress
) -> None:
    """Train a model in place.

    Args:
        model: The model with its initial weights.
        settings: How to train.
        tokens: The text.
        seed: Decides which windows each step sees; the same for all models of a block.
        progress: Receives the steps.

    Raises:
        DataError: The text is shorter than a window.
        NumericalError: The loss is not finite.
    """
    if len(tokens) <= settings.context:
        raise DataError(f"the training text has {len(tokens)} tokens; expected more than a window, {settings.context}")
    order = torch.Generator().manual_seed(seed)
    within = torch.arange(settings.context + 1)
    optimizer = _optimizer(model, settings)
    model.train()
    for step in track(range(settings.steps), "training steps", progress):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        starts = torch.randint(len(tokens) - settings.context, (settings.batch,), generator=order)
        windows = tokens[starts[:, None] + within].to(model.device)
        logits = model(windows[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        if not torch.isfinite(loss):
            raise NumericalError(f"the training loss is {loss.item()} at step {step}; lower 'learning_rate'")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_NORM)
        optimizer.step()
        optimizer.zero_grad()
    model.train(False)


def learning_rate(settings: Settings, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * (_COOLED + (1 - _COOLED) * (1 + math.cos(math.pi * done)) / 2)


def _optimizer(model: PreTrainedModel, settings: Settings) -> torch.optim.Optimizer:
    """AdamW that lets only matrices decay."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim != 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=_BETAS)
