"""Where a divergence shows: by the token that was read last, by position, by how sure the reference was; the worst."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from slmquant.calib.corpora import load_corpus
from slmquant.calib.windows import text_tokens
from slmquant.diagnosis.subject import Subject
from slmquant.model.running.output_head import OutputHead
from slmquant.store.explanations import Aspect, Bucket, Context, Guess
from slmquant.tasks.common.texts.divergence import SURENESS

RARE_SHARE = 0.05
"""The rarest tokens that together make up this share of the texts are rare."""
WORST = 10
"""Number of predictions that are shown as text."""
_CONTEXT_TOKENS = 24
_POSITIONS = (0, 1, 4, 16, 64, 256)
"""First position of every bucket."""


def buckets(subject: Subject, divergence: Float[Tensor, "windows predictions"]) -> tuple[Bucket, ...]:
    """The divergence of every kind of predictions that occurs.

    Args:
        subject: The model.
        divergence: KL of every prediction, in nats.
    """
    found = []
    windows = [len(sample.positions) for sample in subject.samples]
    for aspect, name, chosen in _kinds(subject):
        if chosen.any():
            sums = (divergence.double() * chosen).sum(dim=1).split(windows)
            counts = chosen.sum(dim=1).split(windows)
            found.append(
                Bucket(
                    aspect=aspect,
                    name=name,
                    sums=tuple(tuple(text.tolist()) for text in sums),
                    counts=tuple(tuple(text.tolist()) for text in counts),
                )
            )
    return tuple(found)


def _kinds(subject: Subject) -> Iterator[tuple[Aspect, str, Bool[Tensor, "windows predictions"]]]:
    """Aspect, name and predictions of every kind; the kinds of an aspect make up all predictions."""
    read = subject.trial.windows[:, :-1]
    place = torch.arange(read.shape[1]).expand_as(read)
    kinds = {"first token": place == 0}
    written = _written_kinds(subject, read)
    for name in ("words", "digits", "punctuation", "whitespace", "other"):
        kinds[name] = written[name] & (place > 0)
    for name, chosen in kinds.items():
        yield "token read", name, chosen
    rare = _rare(subject)[read]
    yield "rarity", f"rare, {RARE_SHARE:.0%} of the texts", rare
    yield "rarity", "common", ~rare
    edges = [*(one for one in _POSITIONS if one < read.shape[1]), read.shape[1]]
    for start, stop in itertools.pairwise(edges):
        name = str(start) if stop - start == 1 else f"{start} to {stop - 1}"
        yield "position", name, (place >= start) & (place < stop)
    confidence = subject.trial.confidence()
    for name, (low, high) in SURENESS.items():
        ends = f"below {high:g}" if low == 0 else f"from {low:g}" if high > 1 else f"{low:g} to {high:g}"
        yield "reference", f"{name}, {ends}", (confidence >= low) & (confidence < high)


def _written_kinds(
    subject: Subject, read: Int[Tensor, "windows predictions"]
) -> dict[str, Bool[Tensor, "windows predictions"]]:
    """What the token that was read last is written as."""
    of_id = {int(one): _written_kind(str(subject.tokenizer.decode([int(one)]))) for one in read.unique()}
    names = ("words", "digits", "punctuation", "whitespace", "other")
    return {
        name: torch.isin(read, torch.tensor([one for one, kind in of_id.items() if kind == name], dtype=torch.long))
        for name in names
    }


def _written_kind(text: str) -> str:
    inside = text.strip()
    if text and not inside:
        return "whitespace"
    if any(character.isalpha() for character in inside):
        return "words"
    if any(character.isdigit() for character in inside):
        return "digits"
    return "punctuation" if inside and inside.isprintable() and "\ufffd" not in inside else "other"


def _rare(subject: Subject) -> Bool[Tensor, " vocab"]:
    """The rarest tokens of the texts, which together make up `RARE_SHARE` of them."""
    size = max(subject.trial.vocabulary, len(subject.tokenizer))
    counts = torch.zeros(size, dtype=torch.long)
    for sample in subject.samples:
        text = load_corpus(sample.corpus, subject.setup.places.data_dir).text
        counts += text_tokens(subject.tokenizer, text).bincount(minlength=size)
    order = counts.argsort()
    rarest = counts[order].cumsum(0) <= RARE_SHARE * counts.sum()
    return torch.zeros(size, dtype=torch.bool).scatter_(0, order[rarest], True)


@torch.inference_mode()
def worst(subject: Subject, divergence: Float[Tensor, "windows predictions"]) -> tuple[Context, ...]:
    """The predictions that diverge most, the worst first, of the model as it is now.

    Args:
        subject: The model, with everything rounded.
        divergence: KL of every prediction, in nats.
    """
    trial, corpora = subject.trial, [one.corpus for one in subject.samples for _ in one.positions]
    head, states = OutputHead(trial.model), trial.run()
    found = []
    for index in divergence.flatten().topk(min(WORST, divergence.numel())).indices.tolist():
        window, place = divmod(index, divergence.shape[1])
        ids = trial.windows[window]
        found.append(
            Context(
                text=subject.tokenizer.decode(ids[max(0, place + 1 - _CONTEXT_TOKENS) : place + 1]),
                next=subject.tokenizer.decode(ids[place + 1 : place + 2]),
                corpus=corpora[window],
                position=place,
                divergence=float(divergence[window, place]),
                reference=_guess(subject, trial.logits(trial.states[window, place][None])),
                quantized=_guess(subject, head.logits(states[window, place][None])),
            )
        )
    return tuple(found)


def _guess(subject: Subject, logits: Float[Tensor, "1 vocab"]) -> Guess:
    probability, token = logits[0].softmax(0).max(0)
    return Guess(token=subject.tokenizer.decode([int(token)]), probability=float(probability))
