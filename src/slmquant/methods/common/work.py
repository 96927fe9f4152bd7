"""The input of every part of a method: the model, its relations, the scheme, calibration text and budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from transformers import PreTrainedModel

from slmquant.calib.calibration import Calibration
from slmquant.methods.common.mixed import specs_of
from slmquant.model.rewriting.online_rotations import Online
from slmquant.model.structure import Relations
from slmquant.progress import Progress, Silent
from slmquant.schemes.scheme import Scheme, WeightSpec
from slmquant.store.record import Budget


@dataclass(frozen=True)
class Work:
    """The input of every part of a method.

    Attributes:
        model: The model, float32; transforms and solvers change it in place.
        relations: Its relations, as discovered before any transform.
        scheme: The number formats to quantize to.
        calibration: The calibration text.
        dtype: Dtype in which linears multiply during forward passes.
        seed: Seed of all random draws.
        budget: Budget for learning.
        progress: Receives progress updates.
        notes: Notes for the row, added by any part ("block 7: the loss was not finite").
        online: Operations that remain at run time, such as rotations; transforms have already attached them.
    """

    model: PreTrainedModel
    relations: Relations
    scheme: Scheme
    calibration: Calibration
    dtype: torch.dtype = torch.float32
    seed: int = 0
    budget: Budget = "fast"
    progress: Progress = field(default_factory=Silent)
    notes: list[str] = field(default_factory=list)
    online: list[Online] = field(default_factory=list)

    @cached_property
    def specs(self) -> Mapping[str, WeightSpec]:
        """Number formats of linears, embedding and head by module name, except for those left in 16 bits.

        Read it before the first linear is replaced.

        Raises:
            RefusedError: The scheme is a mixture, and no linear of the model has a role that it knows.
        """
        return specs_of(self.scheme, self.relations, self.model)
