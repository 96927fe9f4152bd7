"""QuaRot: rotates the channels of the whole model by random Hadamard matrices, then rounds with GPTQ.

Ashkboos, Mohtashami, Croci, Li, Cameron, Jaggi, Alistarh, Hoefler, Hensman, "QuaRot: Outlier-Free 4-Bit Inference in
Rotated LLMs", NeurIPS 2024, arXiv 2404.00456. An orthogonal matrix between two linears changes nothing,
`(x Q)(Qᵀ Wᵀ) = x Wᵀ`, and a randomized Hadamard matrix `Q = diag(s) H` spreads an outlier of one channel over all of
them. In SpinQuant's notation: R1 rotates the residual stream, with the gains of its norms folded into the linears
after them; R2 the heads between values and output projection; R4, online, the input of the down projection; R3,
online, queries and keys after the rotary embedding if the cache is rounded.

Deviations:
    * R1 is applied around the blocks instead of being merged into embedding and head; see `rewriting.rotate`. Tied
      embeddings stay tied; the price is two fast products per token at run time.
    * Models with LayerNorm are rotated by rotations that preserve the mean, so the norms are unchanged. The authors
      fold the mean subtraction into the linears and replace the norms by RMSNorm.
    * R2 stays within heads, as in SpinQuant. The authors also mix the heads before the output projection, online.
      If heads are not found, the whole input of the output projection is rotated online (R4).
    * If no Hadamard matrix of the required width exists, R2 is a random orthogonal matrix; it costs nothing at run
      time.
    * Scales of weights come from the original weights, not from the updated ones; see `gptq` on its order.
    * The ratio for keys and values, 0.95, is left out: the cache is rounded to the range of each token or channel.

As published, weights get scales from the authors' search (`--w_clip`, `core.shrink`: the share of each group's range
with the least error of weights), and activations of up to four bits are clipped to 0.9 of each token's range; the row
says so. With more bits activations are not clipped; see `common.activation_clip`.
`quarot_mse` searches both for the least loss. Combinations such as `quarot+gptq` round with the method named last.

Cost: one product of every weight with a fast Hadamard transform, 80 roundings of it for the search, then the cost of
sequential GPTQ; at run time `Σ factors` multiplications per channel and token, twice for the model and once for each
down projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from transformers import PreTrainedModel

from slmquant.calib.statistics import Statistic, Statistics
from slmquant.core.hadamard import Hadamard, hadamard
from slmquant.core.rotation import DenseRotation, Rotation, random_hadamard, random_orthogonal
from slmquant.errors import RefusedError
from slmquant.methods.common.activation_clip import Ratio, clip_activations_
from slmquant.methods.common.recipe import Recipe
from slmquant.methods.common.rotation_trial import Rotations
from slmquant.methods.common.work import Work
from slmquant.methods.gptq import Gptq
from slmquant.methods.gptq_sequential import SequentialGptq
from slmquant.model.discovery.residual_stream import discover_stream
from slmquant.model.rewriting.online_rotations import OnlineRotation, RotatedKeys, attach_
from slmquant.model.rewriting.rotate import rotate_model_
from slmquant.model.structure import Relations, ResidualStream
from slmquant.schemes.scheme import Scheme

_MOST_CHANGE = 0.01
_TOKENS = 16


@dataclass(frozen=True)
class HadamardRotation:
    """Rotates a model by random Hadamard matrices.

    Attributes:
        activation_clip: Share of a token's range to which activations are clipped, or how to find it.
    """

    activation_clip: Ratio = "published"
    needs: frozenset[Statistic] = frozenset()
    recaptures: bool = True
    learns: bool = False

    def refusal(self, scheme: Scheme, relations: Relations | None) -> str | None:
        """None: every scheme is supported; `apply_` finds out whether the model can be rotated."""
        del scheme, relations
        return None

    def apply_(self, work: Work, statistics: Statistics) -> Statistics:
        """Rotate `work.model`.

        Raises:
            RefusedError: Its residual stream cannot be rotated; the message says why.
        """
        stream = unturned_stream(work)
        install_(work, stream, random_rotations(stream, work.seed))
        clip_activations_(work, self.activation_clip)
        return statistics


def unturned_stream(work: Work) -> ResidualStream:
    """The residual stream of a model that is not rotated yet.

    Raises:
        RefusedError: The model is rotated already, or its stream cannot be rotated; the message says why.
    """
    if work.online:
        raise RefusedError("this model is rotated already; name one method that rotates, quarot or spinquant, not two")
    return discover_stream(work.model, work.relations)


def random_rotations(stream: ResidualStream, seed: int) -> Rotations:
    """Random rotations for a model: Hadamard matrices for all widths that have one."""
    generator = torch.Generator().manual_seed(seed)
    residual = random_hadamard(stream.width, generator, stream.subtracts_mean)
    heads = {found.target: _head_rotation(found.size, generator) for block in stream.blocks for found in block.heads}
    return Rotations(residual, heads)


def _head_rotation(size: int, generator: Generator) -> Rotation:
    if hadamard(size).blocks == 1:
        return random_hadamard(size, generator)
    return DenseRotation(random_orthogonal(size, generator))


@torch.no_grad()
def install_(work: Work, stream: ResidualStream, rotations: Rotations) -> None:
    """Rotate the model and attach the rotations that remain at run time.

    Raises:
        RefusedError: The logits changed: a module outside the blocks reads the stream.
    """
    if (blocks := hadamard(stream.width).blocks) > 1:
        work.notes.append(f"no Hadamard matrix of order {stream.width} is known here: {blocks} blocks are used")
    before = _some_logits(work.model)
    online = rotate_model_(work.model, work.relations, stream, rotations.residual, rotations.heads)
    turned = [entry.rotation for entry in online if isinstance(entry, OnlineRotation)]
    in_blocks = {turn.order: turn.blocks for turn in turned if isinstance(turn, Hadamard) and turn.blocks > 1}
    for width, blocks in in_blocks.items():
        work.notes.append(
            f"no Hadamard matrix of order {width} is known here: such inputs are turned in {blocks} blocks"
        )
    attach_(work.model, online)
    work.online.extend(online)
    if work.scheme.kv is not None:
        work.online.append(RotatedKeys())
    change = float((_some_logits(work.model) - before).abs().max() / before.abs().max())
    if not change < _MOST_CHANGE:
        raise RefusedError(
            f"rotating this model changed its logits by {change:.1%}: a module outside its blocks reads the residual "
            "stream; use a method without rotation, such as smoothquant or gptq"
        )


@torch.no_grad()
def _some_logits(model: PreTrainedModel) -> Tensor:
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    tokens = torch.randint(vocabulary, (1, _TOKENS), generator=torch.Generator().manual_seed(0))
    logits: Tensor = model(input_ids=tokens.to(model.device), use_cache=False).logits
    return logits.float()


PUBLISHED_ROUNDING = SequentialGptq(Gptq(scales="mse"))
"""Sequential GPTQ with the authors' search for scales, used by QuaRot and SpinQuant."""

METHOD = Recipe(
    title="QuaRot",
    summary="Spreads outliers over all channels by random Hadamard rotations of the whole model, then GPTQ.",
    reference="Ashkboos et al., NeurIPS 2024, arXiv 2404.00456",
    transforms=(HadamardRotation(),),
    blocks=PUBLISHED_ROUNDING,
)
