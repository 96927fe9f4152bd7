"""The dose-response of outliers: channels of activations are scaled without changing the model's function, and the cost
of rounding activations is measured.

A channel of an input is multiplied by the dose in the module that makes it (a norm's gain, a linear's rows), and the
weights that read it are divided. Function, text and weights' precision stay the same; only how far the channel stands
out changes. Doses below 1 tame what stands out, doses above 1 make it worse. Four arms:

    outliers   the channels with the largest magnitudes
    random     as many others, at random
    undone     outliers, and the quantizer undoes the scaling: nothing may change, or the experiment is wrong
    function   outliers, and nothing is rounded: nothing may change, or the scaling changed the function

Doses are powers of two, which scale without rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from slmquant.diagnosis.quantizers import UndoingQuantizer, count_of, largest
from slmquant.diagnosis.subject import Subject
from slmquant.diagnosis.switches import Rounded
from slmquant.errors import RefusedError
from slmquant.model.computing.activations import ActivationQuantizer
from slmquant.model.rewriting.rescale import scale_group_, scale_link_
from slmquant.model.structure import ChannelLink, InputGroup
from slmquant.progress import Progress, track
from slmquant.schemes import Scheme
from slmquant.store.experiments import ALL_SITES, Arm, DoseCell, DoseResponse

DOSES = (1 / 16, 1 / 4, 4.0, 16.0)
"""Factors of the channels; 1 is the model as it is."""
SHARE = 0.01
"""Share of the channels of an input that is scaled."""
SEEDS = (0, 1, 2)
"""Draws of random channels."""


@dataclass(frozen=True)
class _Passage:
    """A way for a scale from the module that makes an input into the linears that read it.

    Attributes:
        readers: The linears that read the input.
        via: The group, with its norm, or the link.
        rows: For each channel of the input the channel of the maker that it follows, counting only those followed.
        magnitudes: Largest magnitude of each of these channels of the maker.
    """

    readers: tuple[str, ...]
    via: InputGroup | ChannelLink
    rows: tuple[int, ...]
    magnitudes: Float[Tensor, " rows"]

    @property
    def site(self) -> str:
        """Its place in a block: `q_proj k_proj v_proj`, `v_proj → o_proj`."""
        names = " ".join(name.rpartition(".")[2] for name in self.readers)
        return names if isinstance(self.via, InputGroup) else f"{self.via.source.rpartition('.')[2]} → {names}"

    @property
    def maker(self) -> str:
        """The norm or the linear that makes the input."""
        via = self.via
        return via.source if isinstance(via, ChannelLink) else str(via.norm)

    def outliers(self) -> Bool[Tensor, " rows"]:
        """The channels that stand out most."""
        return largest(self.magnitudes, SHARE)

    def others(self, generator: torch.Generator) -> Bool[Tensor, " rows"]:
        """As many channels at random, none of which is an outlier."""
        count, order = len(self.magnitudes), torch.randperm(len(self.magnitudes), generator=generator)
        order = order[~self.outliers()[order]][: count_of(SHARE, count)]
        return torch.zeros(count, dtype=torch.bool).scatter_(0, order, True)

    def factors(self, chosen: Bool[Tensor, " rows"], dose: float) -> Float[Tensor, " in"]:
        """The dose at every channel of the input that follows a chosen one of the maker, 1 elsewhere."""
        return torch.where(chosen, dose, 1.0)[list(self.rows)]


_Scaling = Sequence[tuple[_Passage, Float[Tensor, " in"]]]
"""Passages, and what each channel of the input is multiplied by."""


def run_doses(subject: Subject, scheme: Scheme, progress: Progress) -> DoseResponse:
    """Measure every dose at every site, and at all sites at once.

    Args:
        subject: The model, quantized to a scheme that rounds activations and nothing else.
        scheme: The scheme.
        progress: Receives progress updates.

    Raises:
        RefusedError: No channel of the model can be scaled without changing its function; or the scheme has static
            scales.
        NumericalError: A divergence is not finite.
    """
    if scheme.activations is not None and scheme.activations.static:
        raise RefusedError(f"{scheme} has scales that were calibrated before channels are scaled; drop -static")
    passages = list(_passages(subject, progress))
    if not passages:
        raise RefusedError(
            "no channel of this model can be scaled without changing its function, so doses do not apply"
        )
    whole = subject.measured(subject.switches.of("activations"))
    sites = [*dict.fromkeys(passage.site for passage in passages), ALL_SITES]
    cells = []
    for site, arm, dose, seed in track(list(_cells(sites)), f"{scheme}: scale channels", progress):
        here = [passage for passage in passages if site in (passage.site, ALL_SITES)]
        measure = partial(_measure, subject, here, arm, dose, seed)
        divergence = subject.kept(["dose", site, arm, dose, seed], measure)
        cells.append(DoseCell(site=site, arm=arm, dose=dose, seed=seed, divergence=divergence))
    return DoseResponse(scheme=str(scheme), share=SHARE, whole=whole, cells=tuple(cells))


def _cells(sites: Sequence[str]) -> Iterator[tuple[str, Arm, float, int | None]]:
    """Site, arm, dose and seed of every cell; arms beside `outliers` are measured at all sites at once."""
    for dose in DOSES:
        for site in sites:
            yield site, "outliers", dose, None
        for seed in SEEDS:
            yield ALL_SITES, "random", dose, seed
    for dose in (min(DOSES), max(DOSES)):
        yield ALL_SITES, "undone", dose, None
        yield ALL_SITES, "function", dose, None


def _passages(subject: Subject, progress: Progress) -> Iterator[_Passage]:
    """The passages into inputs that are rounded."""
    magnitudes, relations = subject.magnitudes(progress), subject.relations
    rounded = {name: linears[0] for linears in subject.switches.quantizers for name in linears}
    for group in relations.groups:
        if group.norm is not None and group.linears[0] in rounded:
            found = magnitudes[group.linears[0]]
            yield _Passage(group.linears, group, tuple(range(len(found))), found)
    for link in relations.links:
        if link.target in rounded:
            found, followed = magnitudes[rounded[link.target]], torch.tensor(link.source_rows)
            followed, rows = followed.unique(return_inverse=True)
            by_row = found.new_zeros(len(followed)).scatter_reduce(0, rows, found, "amax", include_self=False)
            yield _Passage((link.target,), link, tuple(rows.tolist()), by_row)


def _measure(
    subject: Subject, passages: Sequence[_Passage], arm: Arm, dose: float, seed: int | None
) -> Float[Tensor, "windows predictions"]:
    generator = torch.Generator().manual_seed(seed or 0)
    scaling = [
        (one, one.factors(one.others(generator) if arm == "random" else one.outliers(), dose)) for one in passages
    ]
    activations, quantizers = subject.switches.of("activations"), dict[str, ActivationQuantizer]()
    if arm == "undone":
        of_linear = {name: one for linears, one in subject.switches.quantizers.items() for name in linears}
        for passage, factors in scaling:
            undoing = UndoingQuantizer(of_linear[passage.readers[0]], factors)
            quantizers |= dict.fromkeys(passage.readers, undoing)
    rounded = Rounded() if arm == "function" else activations
    subject.switches.set_(rounded)
    with _scaled(subject, scaling):
        return subject.tokens(rounded, quantizers)


@contextmanager
def _scaled(subject: Subject, scaling: _Scaling) -> Iterator[None]:
    """Within this context channels are multiplied by factors, and the weights that read them are divided by these."""
    model = subject.trial.model
    modules = {name: model.get_submodule(name) for passage, _ in scaling for name in (passage.maker, *passage.readers)}
    before = [(one, one.detach().clone()) for module in modules.values() for one in module.parameters(recurse=False)]
    try:
        for passage, factors in scaling:
            if isinstance(passage.via, InputGroup):
                scale_group_(model, subject.relations, passage.via, 1 / factors)
            else:
                scale_link_(model, passage.via, 1 / factors)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)
