"""OmniQuant's learnable scales and shifts of inputs, which norms and linears can absorb."""

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
    """Learnable factors that divide the input of some linears, and an optional shift subtracted before.

    Initially neutral (factors 1, shift 0); `begin_` sets the values from which learning starts.

    Args:
        through: The group whose norm absorbs the scale, or the link whose source does.
        factors: Factors from which learning starts, `(in,)`.
        shift: Shift from which learning starts, `(in,)`; None if nothing can absorb one.

    Attributes:
        linears: Names of the linears that read the input.
        shift: The shift, `(in,)`; None without one.
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
        """The learned parameters."""
        return [self._logarithms] if self.shift is None else [self._logarithms, self.shift]

    @torch.no_grad()
    def begin_(self) -> None:
        """Set the parameters to the values from which learning starts."""
        for parameter, value in zip(self.parameters, self._begin, strict=False):
            if value is not None:
                parameter.copy_(value)

    def factors(self) -> Float[Tensor, " in"]:
        """The factors, differentiable; channels that read the same row of a link's source share a factor."""
        return self._logarithms.exp()[self._channels]

    @torch.no_grad()
    def absorb_(self, model: PreTrainedModel, relations: Relations) -> None:
        """Absorb the learned scale and shift into the model, without changing its function."""
        if isinstance(self._through, ChannelLink):
            scale_link_(model, self._through, self.factors())
            return
        if self.shift is not None:
            shift_group_(model, relations, self._through, self.shift)
        scale_group_(model, relations, self._through, self.factors())


@torch.no_grad()
def equivalent_scales(block: CurrentBlock, work: Work, alpha: float, with_links: bool = True) -> list[EquivalentScale]:
    """Every scale that the block's norms and, `with_links`, its linears can absorb, started from SmoothQuant's factors.

    Shifts start at the middle of each channel's range, and factors from the range that remains. Inputs that are rotated
    online are not scaled through links.
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
    """Index of the learned factor of each input channel."""
    if isinstance(through, InputGroup):
        return torch.arange(len(factors), device=factors.device)
    rows = torch.tensor(through.source_rows, device=factors.device)
    places: Tensor = torch.unique(rows, return_inverse=True)[1]
    return places


def _factors(block: CurrentBlock, linears: tuple[str, ...], largest: Tensor, alpha: float) -> Tensor:
    weights = torch.stack([block.weight(name).abs().amax(dim=0) for name in linears]).amax(dim=0)
    return smoothing_factors(largest, weights.float(), alpha)


def _takes_shift(block: CurrentBlock, group: InputGroup) -> bool:
    """Whether the norm of a group and all its linears have biases."""
    norm = block.module.get_submodule((group.norm or "").removeprefix(f"{block.name}."))
    has_bias = getattr(norm, "bias", None) is not None
    return has_bias and all(block.linear(name).bias is not None for name in group.linears)
