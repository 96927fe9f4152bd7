"""What every part of a method is given: the model, what is known of it, and what may be spent."""

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
    """What every part of a method is given.

    Attributes:
        model: The model, float32; transforms and solvers change it in place.
        relations: Its relations, as discovered before any transform.
        scheme: Which numbers are asked for.
        calibration: What may be looked at.
        dtype: What linears multiply in during forward passes.
        seed: Of everything that is drawn.
        budget: What learning may cost.
        progress: Who is told how far it is.
        notes: Sentences for the row, added by whoever has something to say ("block 7: the loss was not finite").
        online: What transforms leave to be done at run time; they have attached it to the model already.
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
        """What linears, embedding and head shall be stored as, by module name; without those left in 16 bits.

        To be asked for before the first linear is replaced.

        Raises:
            RefusedError: The scheme is a mixture, and no linear of the model is one that it favours.
        """
        return specs_of(self.scheme, self.relations, self.model)
