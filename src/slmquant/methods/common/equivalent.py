"""Scales and shifts of inputs that norms and linears can absorb, as parameters to learn (OmniQuant's)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from slmquant.core.smooth import smoothing_factors
from slmquant.methods.common.learning import input_ranges
from slmquant.methods.common.work import Work
from slmquant.model.rewriting.online_rotations import OnlineRotation
from slmquant.model.rewriting.rescale import scale_group_, scale_link_, shared_factors, shift_group_
from slmquant.model.running.block_walk import CurrentBlock
from slmquant.model.structure import ChannelLink, InputGroup, Relations

_START_SAMPLES = 16


class EquivalentScale:
    """Factors that the input of some linears is divided by, and what is subtracted from it before.

    It is neutral at first; `begin_` goes to where learning begins.

    Args:
        through: Who absorbs it: the norm of a group, or the source of a link.
        factors: Where the factors begin, `(in,)`.
        shift: Where the shift begins, `(in,)`; None where nothing could absorb one.

    Attributes:
        linears: Who reads that input.
        shift: What is subtracted; None for nothing.
    """

    def __init__(self, through: InputGroup | ChannelLink, factors: Float[Tensor, " in"], shift: Tensor | None) -> None:
        self._through = through
        self.linears = through.linears if isinstance(through, InputGroup) else (through.target,)
        self._channels = _channels(through, factors)
        first = torch.empty_like(self._channels.unique()).scatter_(
            0, self._channels, torch.arange(len(self._channels), device=factors.device)
        )
        self._begin = factors[first].log(), shift
        self._logarithms = torch.zeros_like(self._begin[0]).requires_grad_()
        self.shift = None if shift is None else torch.zeros_like(shift).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """What is learned."""
        return [self._logarithms] if self.shift is None else [self._logarithms, self.shift]

    @torch.no_grad()
    def begin_(self) -> None:
        """Go to where learning begins."""
        for parameter, value in zip(self.parameters, self._begin, strict=False):
            if value is not None:
                parameter.copy_(value)

    def factors(self) -> Float[Tensor, " in"]:
        """The factors, differentiable; channels that follow one row of a link's source share one."""
        return self._logarithms.exp()[self._channels]

    @torch.no_grad()
    def absorb_(self, model: PreTrainedModel, relations: Relations) -> None:
        """Let the model do what was learned, without changing its function."""
        if isinstance(self._through, ChannelLink):
            scale_link_(model, self._through, self.factors())
            return
        if self.shift is not None:
            shift_group_(model, relations, self._through, self.shift)
        scale_group_(model, relations, self._through, self.factors())


@torch.no_grad()
def equivalent_scales(block: CurrentBlock, work: Work, alpha: float, with_links: bool = True) -> list[EquivalentScale]:
    """Every scale that the block can absorb, by its norms alone or `with_links`, beginning as SmoothQuant has it.

    Shifts begin at the middle of each channel's range, and factors with the range that they leave. An input that an
    online rotation turns follows no linear any more.
    """
    ranges = input_ranges(block, _START_SAMPLES, work.dtype)
    turned = {r.module for r in work.online if isinstance(r, OnlineRotation) and r.site == "input"}
    scales: list[EquivalentScale] = []
    for group in block.groups:
        if group.norm is not None:
            low, high = ranges[group.linears[0]]
            shift = (low + high) / 2 if _takes_shift(block, group) else None
            largest = torch.maximum(low.abs(), high.abs()) if shift is None else (high - low) / 2
            scales.append(EquivalentScale(group, _factors(block, group.linears, largest, alpha), shift))
    scaled = {name for scale in scales for name in scale.linears}
    for link in work.relations.links if with_links else ():
        if link.target in ranges and link.target not in scaled | turned:
            low, high = ranges[link.target]
            factors = _factors(block, (link.target,), torch.maximum(low.abs(), high.abs()), alpha)
            scales.append(EquivalentScale(link, shared_factors(link, factors), None))
            scaled.add(link.target)
    return scales


def _channels(through: InputGroup | ChannelLink, factors: Tensor) -> Int[Tensor, " in"]:
    """For each input channel, which of the learned numbers is its own."""
    if isinstance(through, InputGroup):
        return torch.arange(len(factors), device=factors.device)
    rows = torch.tensor(through.source_rows, device=factors.device)
    places: Tensor = torch.unique(rows, return_inverse=True)[1]
    return places


def _factors(block: CurrentBlock, linears: tuple[str, ...], largest: Tensor, alpha: float) -> Tensor:
    weights = torch.stack([block.weight(name).abs().amax(dim=0) for name in linears]).amax(dim=0)
    return smoothing_factors(largest, weights.float(), alpha)


def _takes_shift(block: CurrentBlock, group: InputGroup) -> bool:
    """Whether a norm and all that it feeds have biases."""
    norm = block.module.get_submodule((group.norm or "").removeprefix(f"{block.name}."))
    has_bias = getattr(norm, "bias", None) is not None
    return has_bias and all(block.linear(name).bias is not None for name in group.linears)
