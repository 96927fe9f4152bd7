"""Readers and writers of the residual stream: discovered by replaying blocks, proved by rotating them.

A block `x + f(x)` can be rotated if everything that `f` reads of `x` passes through a norm that commutes with rotations
and then into linears, and if everything that `f` adds is the output of linears. Both are tested from outside:

- the output of one linear is replaced by noise, and the output of all other possible writers by zeros. The linear
  writes the stream if the block's output differs from its input by that noise times a constant. A norm behind the
  linear (Gemma 2, OLMo 2) shows as a difference that is not such a multiple;
- if all writers output zeros, the stream equals the block's input. A module that receives it, and whose output linears
  receive, is a norm of the stream. Copies of the norm without gain and bias show whether it commutes with any
  rotation (RMSNorm), with rotations that keep the mean (LayerNorm), or with none.

A final test proves the result: the block, rotated by a random rotation, must give the same output in float64 as before.
A router that reads a norm, or fused experts that write, fail this test.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.core.rotation import DenseRotation, random_hadamard, random_orthogonal
from slmquant.errors import RefusedError
from slmquant.model.discovery.block_replay import BlockCall, BlockReplay, record_block_calls, tensor_key
from slmquant.model.discovery.float64 import computing_in_float64
from slmquant.model.linears import Linear, gain_offset, out_features
from slmquant.model.rewriting.online_rotations import attach_
from slmquant.model.rewriting.rotate import fold_norms_, rotate_heads_, rotate_stream_, stream_boundaries
from slmquant.model.structure import BlockStream, ChannelLink, Heads, Relations, ResidualStream, StreamNorm

_TOLERANCE = 1e-8
_TOKENS = 6
_SEED = 20251122


@torch.no_grad()
def discover_stream(model: PreTrainedModel, relations: Relations) -> ResidualStream:
    """Discover the readers and writers of the residual stream; the model is not changed.

    Args:
        model: The model.
        relations: Its relations.

    Raises:
        RefusedError: The stream cannot be rotated; the message names the block and says why.
    """
    linears = {name: model.get_submodule(name) for name in relations.linears}
    batch = 1 + max(sum(name.startswith(f"{block}.") for name in linears) for block in relations.blocks)
    vocabulary = model.get_input_embeddings().get_parameter("weight").shape[0]
    tokens = torch.randint(vocabulary, (_TOKENS,), generator=torch.Generator().manual_seed(_SEED))
    blocks = {name: model.get_submodule(name) for name in relations.blocks}
    calls = record_block_calls(model, blocks, tokens.expand(batch, -1).to(model.device))

    found: list[BlockStream] = []
    head_sizes: dict[ChannelLink, int] = {}
    subtracts_mean = False
    for name, block in blocks.items():
        probe = _BlockProbe(name, block, calls[name], batch, relations, head_sizes)
        stream, keeps_mean = probe.stream()
        found.append(stream)
        subtracts_mean |= keeps_mean
    return ResidualStream(probe.width, subtracts_mean, tuple(found))


class _BlockProbe:
    """Tests a float64 copy of one block for readers and writers of its stream; names are relative to the block.

    Args:
        name: The block's name.
        block: The block; it is copied.
        call: The block's arguments, recorded with `batch` equal sequences.
        batch: Number of sequences: more than the block has linears.
        relations: The model's relations.
        head_sizes: Sizes of heads found in other blocks (1: none), tried first; new sizes are added.
    """

    def __init__(
        self,
        name: str,
        block: nn.Module,
        call: BlockCall,
        batch: int,
        relations: Relations,
        head_sizes: dict[ChannelLink, int],
    ) -> None:
        self.name = name
        self.head_sizes = head_sizes
        self.replay = BlockReplay(block, call, batch)
        entering: Tensor = call.args[0] if call.args else call.kwargs["hidden_states"]
        self.entering = entering.double()
        self.before = self.replay.run().output
        self.width = entering.shape[-1]
        self.generator = torch.Generator().manual_seed(_SEED)
        inside = f"{name}."
        self.groups = [
            tuple(linear.removeprefix(inside) for linear in group.linears)
            for group in relations.groups
            if group.linears[0].startswith(inside)
        ]
        self.links = [
            ChannelLink(link.source.removeprefix(inside), link.target.removeprefix(inside), link.source_rows)
            for link in relations.links
            if link.source.startswith(inside)
        ]

    def stream(self) -> tuple[BlockStream, bool]:
        """Readers and writers by full name, and whether some norm subtracts the mean."""
        writers = self._writers()
        norms = self._norms(writers)
        subtracts_mean = any(tuple(self._subtracts_mean(norm.name) for norm in norms))
        heads = tuple(found for link in self.links if (found := self._heads(link)) is not None)
        self._prove_(BlockStream("", norms, writers, ()), subtracts_mean)
        full = BlockStream(
            self.name,
            tuple(StreamNorm(self._full(n.name), tuple(map(self._full, n.readers))) for n in norms),
            tuple(map(self._full, writers)),
            tuple(Heads(self._full(h.source), self._full(h.target), h.size, h.starts) for h in heads),
        )
        return full, subtracts_mean

    def _full(self, name: str) -> str:
        return f"{self.name}.{name}"

    def _writers(self) -> tuple[str, ...]:
        """The linears whose output, times a constant, is added to the stream."""
        candidates = self._candidates()
        shape = (self.replay.batch, _TOKENS, self.width)
        noise = torch.randn(shape[1:], generator=self.generator, dtype=torch.float64).to(self.replay.device)
        outputs = {name: noise.new_zeros(shape) for name in candidates}
        for sequence, name in enumerate(candidates):
            outputs[name][sequence] = noise
        added = self.replay.run(replace_outputs=outputs).output - self.entering
        if not _close(added[-1] + self.entering[-1], self.entering[-1]):
            raise RefusedError(
                f"cannot rotate {self.name}: modules other than linears write its residual stream "
                "(e.g. fused experts); use a method without rotation, such as smoothquant or gptq"
            )
        writers = []
        for sequence, name in enumerate(candidates):
            difference = added[sequence] - added[-1]
            if float(difference.abs().max()) < _TOLERANCE:
                continue
            constant = (difference * noise).sum() / noise.square().sum()
            if not _close(difference, constant * noise):
                raise RefusedError(
                    f"cannot rotate {self._full(name)}: another module (probably a norm) stands between its output "
                    "and the residual stream; use a method without rotation, such as smoothquant or gptq"
                )
            writers.append(name)
        return tuple(writers)

    def _candidates(self) -> tuple[str, ...]:
        """Linears as wide as the stream that see every token."""
        linears = [name for group in self.groups for name in group]
        run = self.replay.run(tuple(linears))
        tokens = self.replay.batch * _TOKENS
        return tuple(
            name
            for name in linears
            if out_features(self.replay.block.get_submodule(name)) == self.width
            and run.outputs[name].numel() == tokens * self.width
        )

    def _norms(self, writers: tuple[str, ...]) -> tuple[StreamNorm, ...]:
        """Modules that receive the stream, with the linears that receive their outputs."""
        modules = [
            name
            for name, module in self.replay.block.named_modules()
            if name and not isinstance(module, Linear) and not any(module.children())
        ]
        silent = {name: self.entering.new_zeros(self.entering.shape) for name in writers}
        run = self.replay.run((*modules, *(name for group in self.groups for name in group)), replace_outputs=silent)
        made_by: dict[object, str] = {}
        for name in modules:
            if name in run.inputs and name in run.outputs:
                made_by.setdefault(tensor_key(run.outputs[name]), name)
        norms = []
        for readers in self.groups:
            maker = made_by.get(tensor_key(run.inputs[readers[0]]))
            if maker is not None and self._is_stream(run.inputs[maker]):
                norms.append(StreamNorm(maker, readers))
        return tuple(norms)

    def _is_stream(self, received: Tensor) -> bool:
        """Whether a tensor equals the block's input; batch and sequence may be folded into one dimension (OPT)."""
        same_size = received.shape[-1] == self.width and received.numel() == self.entering.numel()
        return same_size and _close(received.reshape(self.entering.shape), self.entering)

    def _subtracts_mean(self, norm: str) -> bool:
        """Whether the norm subtracts the mean (LayerNorm) and so allows only mean-preserving rotations."""
        bare = copy.deepcopy(self.replay.block.get_submodule(norm))
        own = dict(bare.named_parameters(recurse=False))
        if "weight" in own and (offset := gain_offset(bare)) is not None:
            own["weight"].fill_(1.0 - offset)
        if "bias" in own:
            own["bias"].zero_()
        x = torch.randn(1, 4, self.width, generator=self.generator, dtype=torch.float64) + 0.5
        x = x.to(self.replay.device)
        for keeps_mean in (False, True):
            rotation = random_hadamard(self.width, self.generator, keeps_mean)
            with computing_in_float64():
                if _close(bare(rotation.apply(x)), rotation.apply(bare(x))):
                    return keeps_mean
        raise RefusedError(
            f"cannot rotate {self._full(norm)}: a {type(bare).__name__} commutes with no rotation; use a method "
            "without rotation, such as smoothquant or gptq"
        )

    def _heads(self, link: ChannelLink) -> Heads | None:
        """The widest heads of a link whose channels may be mixed; None if there are none."""
        size = self.head_sizes.get(link, 0)
        if not size or (size > 1 and not self._mixes(link, size)):
            size = self.head_sizes[link] = self._head_size(link)
        starts = _starts(link.source_rows, size)
        return None if size == 1 or starts is None else Heads(link.source, link.target, size, starts)

    def _head_size(self, link: ChannelLink) -> int:
        """The largest size of runs that may be mixed. Every divisor of such a size works too, so it grows by primes."""
        size = 1
        for prime, power in Counter(_prime_factors(len(link.source_rows))).items():
            for _ in range(power):
                if not self._mixes(link, size * prime):
                    break
                size *= prime
        return size

    def _mixes(self, link: ChannelLink, size: int) -> bool:
        """Whether the channels of a link may be mixed in runs of `size` without changing the block's output."""
        if (starts := _starts(link.source_rows, size)) is None:
            return False
        heads = Heads(link.source, link.target, size, starts)
        rotation = random_orthogonal(size, self.generator)
        rotate_heads_(self.replay.block, heads, DenseRotation(rotation))
        output = self.replay.run().output
        rotate_heads_(self.replay.block, heads, DenseRotation(rotation.T))
        return _close(output - self.entering, self.before - self.entering)

    def _prove_(self, stream: BlockStream, subtracts_mean: bool) -> None:
        """Rotate the copy of the block and check that its output does not change."""
        rotation = random_hadamard(self.width, self.generator, subtracts_mean)
        block = self.replay.block
        fold_norms_(block, stream)
        rotate_stream_(block, stream, rotation)
        attach_(block, stream_boundaries(ResidualStream(self.width, subtracts_mean, (stream,)), rotation))
        if not _close(self.replay.run().output - self.entering, self.before - self.entering):
            raise RefusedError(
                f"cannot rotate {self.name}: its residual stream is not only read by linears behind a norm "
                "(e.g. a router reads it too); use a method without rotation, such as smoothquant or gptq"
            )


def _prime_factors(number: int) -> list[int]:
    factors = []
    for prime in range(2, number + 1):
        while number % prime == 0:
            factors.append(prime)
            number //= prime
    return factors


def _starts(source_rows: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    """First row of each run of `size` consecutive channels; None if the channels do not form such runs."""
    if len(source_rows) % size:
        return None
    rows = torch.tensor(source_rows).view(-1, size)
    if not torch.equal(rows, rows[:, :1] + torch.arange(size)):
        return None
    starts = rows[:, 0].unique().tolist()
    apart = all(after - before >= size for before, after in itertools.pairwise(starts))
    return tuple(rows[:, 0].tolist()) if apart else None


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree to eight digits of the largest number; if `expected` is all 0, whether `found` is."""
    return float((found - expected).abs().max()) <= _TOLERANCE * float(expected.abs().max())
