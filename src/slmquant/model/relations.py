"""Which norm feeds which linears, and which linear feeds which: discovered from the running model.

What a function-preserving transform must know of an architecture is found by looking, not in a table per family:

- linears that receive the very same tensor form a group, and the norm whose output that tensor is feeds them;
- the output channels of one linear are multiplied by distinct factors: an input channel of a later linear that
  changes by exactly one of them, at every token, follows that channel. This finds v → o with the repetition of
  grouped-query attention, up → down through a gate, fc1 → fc2 through ReLU, and rightly nothing through GELU;
- each candidate is accepted only if scaling on one side and dividing on the other leaves the block's output
  as it was, in float64. A norm that also feeds a router, or a channel that is also read elsewhere, fails there.

Three ideas keep this cheap and exact. Probes run on a float64 copy of one block, and a batch of equal sequences
carries one probe each. Behind a probed linear its numbers are replaced by random ones, so that a dead channel or a
clipping that happens not to bite does not mislead. And at the first token attention can only look at itself, so
whatever queries and keys are, the values pass as they are: candidates are read off there, and confirmed at all
tokens with the other rows at rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.errors import ModelError
from slmquant.model._follow import TOKEN_SCALES, batch_size, followed_rows
from slmquant.model._probe import (
    LINEAR_TYPES,
    BlockReplay,
    gain_offset,
    in_features,
    out_features,
    record_block_calls,
    tensor_key,
)

_TOLERANCE = 1e-9
_SEED = 20251117


@dataclass(frozen=True)
class InputGroup:
    """Linears that receive the very same tensor.

    Attributes:
        linears: Their module names, in execution order.
        norm: The norm whose output feeds all of them *and nothing else*, so that its weight may absorb a scale
            per channel; None where there is none.
    """

    linears: tuple[str, ...]
    norm: str | None


@dataclass(frozen=True)
class ChannelLink:
    """Input channels of `target` follow output channels of `source`, linearly for positive factors.

    Attributes:
        source: Name of the linear whose output is followed.
        target: Name of the linear whose input follows.
        source_rows: For each input channel of the target the output channel of the source that it follows.
            Every input channel is covered; grouped-query attention gives several of them the same row.
    """

    source: str
    target: str
    source_rows: tuple[int, ...]


@dataclass(frozen=True)
class Relations:
    """What transforms need to know of an architecture. All names are full module names.

    Attributes:
        linears: Every linear that the blocks call, in execution order; head and embeddings excluded. A matrix
            that is not called as a module (the fused experts of a mixture) is not among them.
        blocks: The decoder blocks, first to last.
        groups: Who receives the same tensor; every linear is in exactly one group.
        links: Who follows whom.
        embedding: The token embedding.
        head: The module that makes logits; None where the model has none.
        tied: True where head and embedding are one parameter.
    """

    linears: tuple[str, ...]
    blocks: tuple[str, ...]
    groups: tuple[InputGroup, ...]
    links: tuple[ChannelLink, ...]
    embedding: str
    head: str | None
    tied: bool


@dataclass(frozen=True)
class _BlockRelations:
    """What holds inside one block, in names relative to it."""

    linears: tuple[str, ...]
    groups: tuple[InputGroup, ...]
    links: tuple[ChannelLink, ...]

    @property
    def scalable(self) -> tuple[InputGroup | ChannelLink, ...]:
        """Everything through which a scale can be moved."""
        return (*(group for group in self.groups if group.norm), *self.links)


def discover(model: PreTrainedModel) -> Relations:
    """Find the relations of a decoder-only model by running it on a few random tokens.

    The model is left as it was found, bit for bit. Takes seconds: each kind of block is probed once, and what
    was found there is verified on all others.

    Raises:
        ModelError: The model has no list of decoder blocks, or they hold no linears.
    """
    blocks = _decoder_blocks(model)
    batch = batch_size(
        max(out_features(linear) for block in blocks.values() for linear in _linears(block).values())
    )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    generator = torch.Generator().manual_seed(_SEED)
    vocabulary = embedding.get_parameter("weight").shape[0]
    tokens = torch.randint(vocabulary, (len(TOKEN_SCALES),), generator=generator)
    calls = record_block_calls(model, blocks, tokens.expand(batch, -1).to(model.device))

    kinds: dict[object, _BlockRelations] = {}
    found: list[_BlockRelations] = []
    for name, block in blocks.items():
        replay, kind = BlockReplay(block, calls[name], batch), _kind(block)
        if kind not in kinds or not _holds(replay, kinds[kind]):
            kinds[kind] = _probe(replay)
        found.append(_renamed(kinds[kind], name))

    names = {module: name for name, module in model.named_modules()}
    return Relations(
        linears=tuple(linear for block in found for linear in block.linears),
        blocks=tuple(blocks),
        groups=tuple(group for block in found for group in block.groups),
        links=tuple(link for block in found for link in block.links),
        embedding=names[embedding],
        head=None if head is None else names[head],
        tied=head is not None and head.get_parameter("weight") is embedding.get_parameter("weight"),
    )


def _decoder_blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The largest list of modules that is not inside another, by name."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    stack = max(outer, key=lambda name: sum(p.numel() for p in lists[name].parameters()), default=None)
    if stack is None or not any(_linears(block) for block in lists[stack]):
        raise ModelError(
            f"found no decoder blocks in {type(model).__name__}; expected a decoder-only transformers model, "
            "which keeps them in one list of modules"
        )
    return {f"{stack}.{index}": block for index, block in enumerate(lists[stack])}


def _linears(block: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in block.named_modules() if isinstance(module, LINEAR_TYPES)}


def _kind(block: nn.Module) -> object:
    """Blocks of one kind have modules of the same types and shapes under the same names."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
    return shapes, tuple((name, type(module)) for name, module in block.named_modules())


def _probe(replay: BlockReplay) -> _BlockRelations:
    """Find out everything about one block."""
    linears, groups = _groups(replay)
    links = [
        ChannelLink(source, target, rows)
        for index, source in enumerate(linears)
        for target, rows in followed_rows(replay, source, linears[index + 1 :]).items()
    ]
    with_norm = [group for group in groups if group.norm is not None]
    sound = set(_preserving(replay, (*with_norm, *links)))
    return _BlockRelations(
        linears,
        tuple(group if group in sound else replace(group, norm=None) for group in groups),
        tuple(link for link in links if link in sound),
    )


def _holds(replay: BlockReplay, found: _BlockRelations) -> bool:
    """Whether what was found on another block of the same kind is true of this one."""
    linears, groups = _groups(replay)
    same_inputs = [group.linears for group in groups] == [group.linears for group in found.groups]
    return linears == found.linears and same_inputs and _preserving(replay, found.scalable) == found.scalable


def _groups(replay: BlockReplay) -> tuple[tuple[str, ...], list[InputGroup]]:
    """The linears in execution order, and who of them receives which tensor."""
    linears, norms = _linears(replay.block), _norms(replay.block)
    run = replay.run((*linears, *norms))
    executed = tuple(name for name in run.inputs if name in linears)
    made_by = {tensor_key(run.outputs[name]): name for name in norms if name in run.outputs}
    receivers: dict[object, list[str]] = {}
    for name in executed:
        receivers.setdefault(tensor_key(run.inputs[name]), []).append(name)
    return executed, [InputGroup(tuple(names), made_by.get(key)) for key, names in receivers.items()]


def _norms(block: nn.Module) -> dict[str, nn.Module]:
    """Modules with a gain per channel that could absorb a scale."""

    def has_gain(module: nn.Module) -> bool:
        own = dict(module.named_parameters(recurse=False))
        only_gain = "weight" in own and own.keys() <= {"weight", "bias"} and own["weight"].ndim == 1
        return only_gain and not any(module.children()) and gain_offset(module) is not None

    return {name: module for name, module in block.named_modules() if has_gain(module)}


def _preserving(
    replay: BlockReplay, candidates: tuple[InputGroup | ChannelLink, ...]
) -> tuple[InputGroup | ChannelLink, ...]:
    """Those candidates through which a scale moves without changing what the block returns.

    Each sequence of the batch carries one candidate; the first carries none.
    """
    sound: list[InputGroup | ChannelLink] = []
    for start in range(0, len(candidates), replay.batch - 1):
        some = candidates[start : start + replay.batch - 1]
        received: dict[str, Tensor] = {}
        returned: dict[str, Tensor] = {}
        for sequence, candidate in enumerate(some, start=1):
            _scale_through(replay, candidate, sequence, received, returned)
        output = replay.run(scale_inputs=received, scale_outputs=returned).output
        change = (output - output[:1]).abs().flatten(1).amax(dim=1)
        limit = _TOLERANCE * float(output[0].abs().max())
        sound += [
            candidate for candidate, moved in zip(some, change[1:].tolist(), strict=False) if moved <= limit
        ]
    return tuple(sound)


def _scale_through(
    replay: BlockReplay,
    candidate: InputGroup | ChannelLink,
    sequence: int,
    received: dict[str, Tensor],
    returned: dict[str, Tensor],
) -> None:
    """Let one sequence have what the candidate's linears receive multiplied by factors, and divided again."""
    if isinstance(candidate, ChannelLink):
        source, targets, rows = candidate.source, (candidate.target,), list(candidate.source_rows)
        channels = out_features(replay.block.get_submodule(source))
    else:
        assert candidate.norm is not None
        source, targets = candidate.norm, candidate.linears
        channels = in_features(replay.block.get_submodule(targets[0]))
        rows = list(range(channels))
    factors = torch.linspace(-1.0, 1.0, channels, dtype=torch.float64).exp2()
    unread = torch.ones(channels, dtype=torch.bool)
    unread[rows] = False
    factors[unread] = 1.0
    _row(replay, returned, source, channels)[sequence] *= factors.to(replay.device)
    for target in targets:
        _row(replay, received, target, len(rows))[sequence] /= factors[rows].to(replay.device)


def _row(replay: BlockReplay, factors: dict[str, Tensor], name: str, channels: int) -> Tensor:
    ones = torch.ones(replay.batch, channels, dtype=torch.float64, device=replay.device)
    return factors.setdefault(name, ones)


def _renamed(found: _BlockRelations, block: str) -> _BlockRelations:
    """The same relations in full module names."""

    def full(name: str) -> str:
        return f"{block}.{name}"

    return _BlockRelations(
        tuple(map(full, found.linears)),
        tuple(InputGroup(tuple(map(full, g.linears)), g.norm and full(g.norm)) for g in found.groups),
        tuple(ChannelLink(full(k.source), full(k.target), k.source_rows) for k in found.links),
    )
