"""Relations between norms and linears of a model, discovered by running it.

Function-preserving transforms need to know which norm feeds which linears, and which linear feeds which. This is
discovered by experiment, not looked up in a table per family:

- linears that receive the same tensor form a group; if that tensor is the output of a norm, the norm feeds them;
- the output channels of one linear are multiplied by distinct factors: an input channel of a later linear that changes
  by exactly one of them, at every token, follows that channel. This finds v → o with the repetition of grouped-query
  attention, up → down through a gate, fc1 → fc2 through ReLU, and correctly nothing through GELU;
- a candidate is accepted only if scaling on one side and dividing on the other does not change the block's output in
  float64. A norm that also feeds a router, or a channel that is also read elsewhere, fails this test.

Three ideas keep this cheap and exact. Tests run on a float64 copy of one block, with one test per sequence in a batch
of equal sequences. The output of a tested linear is replaced by random numbers, so that a dead channel, or clipping
that happens not to occur, does not mislead. And the first token attends only to itself, so its values pass through
attention unchanged, whatever queries and keys are: candidates are read there, and confirmed at all tokens with the
other rows unscaled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from slmquant.errors import ModelError
from slmquant.model.discovery.block_replay import BlockReplay, TensorKey, record_block_calls, tensor_key
from slmquant.model.discovery.channel_links import TOKEN_SCALES, batch_size, followed_rows
from slmquant.model.linears import Linear, gain_offset, in_features, out_features
from slmquant.model.structure import ChannelLink, InputGroup, Relations

_TOLERANCE = 1e-9
_SEED = 20251117


@dataclass(frozen=True)
class _BlockRelations:
    """Relations inside one block; names are relative to the block."""

    linears: tuple[str, ...]
    groups: tuple[InputGroup, ...]
    links: tuple[ChannelLink, ...]


@dataclass(frozen=True)
class _Passage:
    """A possible path of a scale: output channel `rows[i]` of `maker` is input channel `i` of `takers`."""

    maker: str
    takers: tuple[str, ...]
    rows: tuple[int, ...]


def discover(model: PreTrainedModel) -> Relations:
    """Find the relations of a decoder-only model by running it on a few random tokens.

    The model is not changed. Takes seconds: links are searched for in one block of each kind and verified in all
    others; groups and their norms are discovered and verified in every block.

    Raises:
        ModelError: The model has no list of decoder blocks, or the blocks contain no linears.
    """
    blocks = decoder_blocks(model)
    batch = batch_size(max(out_features(linear) for block in blocks.values() for linear in _linears(block).values()))
    embedding = model.get_input_embeddings()
    head: nn.Module | None = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(_SEED)
    vocabulary = embedding.get_parameter("weight").shape[0]
    tokens = torch.randint(vocabulary, (len(TOKEN_SCALES),), generator=generator)
    calls = record_block_calls(model, blocks, tokens.expand(batch, -1).to(model.device))

    known: dict[object, tuple[ChannelLink, ...]] = {}
    found: list[_BlockRelations] = []
    for name, block in blocks.items():
        replay, kind = BlockReplay(block, calls[name], batch), _kind(block)
        relations = _block_relations(replay, known.get(kind))
        known[kind] = relations.links
        found.append(_renamed(relations, name))

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


def decoder_blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The decoder blocks by name, first to last: the largest list of modules that is not inside another list.

    Raises:
        ModelError: There is no such list, or its modules contain no matrices.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    stack = max(outer, key=lambda name: sum(p.numel() for p in lists[name].parameters()), default=None)
    if stack is None or not any(weight.ndim > 1 for weight in lists[stack].parameters()):
        raise ModelError(
            f"found no decoder blocks in {type(model).__name__}; expected a decoder-only transformers model "
            "with its blocks in one list of modules"
        )
    return {f"{stack}.{index}": block for index, block in enumerate(lists[stack])}


def _linears(block: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in block.named_modules() if isinstance(module, Linear)}


def _kind(block: nn.Module) -> object:
    """Key of the kind of a block: equal for blocks with the same module names, types and shapes."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
    return shapes, tuple((name, type(module)) for name, module in block.named_modules())


def _block_relations(replay: BlockReplay, known: tuple[ChannelLink, ...] | None) -> _BlockRelations:
    """Discover all relations of one block.

    Args:
        replay: The block.
        known: Links of another block of the same kind: they are verified, and links are searched only if one fails.
    """
    linears, groups = _groups(replay)
    links = _links(replay, linears) if known is None else known
    sound = _sound(replay, _passages(replay, groups, links))
    sound_links = tuple(link for link in links if _through_link(link) in sound)
    if known is not None and sound_links != known:
        return _block_relations(replay, None)
    return _BlockRelations(
        linears,
        tuple(group if _through_norm(replay, group) in sound else replace(group, norm=None) for group in groups),
        sound_links,
    )


def _links(replay: BlockReplay, linears: tuple[str, ...]) -> tuple[ChannelLink, ...]:
    return tuple(
        ChannelLink(source, target, rows)
        for index, source in enumerate(linears)
        for target, rows in followed_rows(replay, source, linears[index + 1 :]).items()
    )


def _groups(replay: BlockReplay) -> tuple[tuple[str, ...], list[InputGroup]]:
    """The linears in execution order, and their groups by received tensor."""
    linears, norms = _linears(replay.block), _norms(replay.block)
    run = replay.run((*linears, *norms))
    executed = tuple(name for name in run.inputs if name in linears)
    made_by = {tensor_key(run.outputs[name]): name for name in norms if name in run.outputs}
    receivers: dict[TensorKey, list[str]] = {}
    for name in executed:
        receivers.setdefault(tensor_key(run.inputs[name]), []).append(name)
    return executed, [InputGroup(tuple(names), made_by.get(key)) for key, names in receivers.items()]


def _norms(block: nn.Module) -> dict[str, nn.Module]:
    """Modules with a gain per channel that could absorb a scale."""

    def has_gain(module: nn.Module) -> bool:
        weights = dict(module.named_parameters(recurse=False))
        only_gain = "weight" in weights and weights.keys() <= {"weight", "bias"} and weights["weight"].ndim == 1
        return only_gain and not any(module.children()) and gain_offset(module) is not None

    return {name: module for name, module in block.named_modules() if has_gain(module)}


def _passages(replay: BlockReplay, groups: Iterable[InputGroup], links: Iterable[ChannelLink]) -> list[_Passage]:
    through = [*(_through_norm(replay, group) for group in groups), *map(_through_link, links)]
    return [passage for passage in through if passage is not None]


def _through_norm(replay: BlockReplay, group: InputGroup) -> _Passage | None:
    if group.norm is None:
        return None
    channels = in_features(replay.block.get_submodule(group.linears[0]))
    return _Passage(group.norm, group.linears, tuple(range(channels)))


def _through_link(link: ChannelLink) -> _Passage:
    return _Passage(link.source, (link.target,), link.source_rows)


def _sound(replay: BlockReplay, passages: list[_Passage]) -> list[_Passage]:
    """The passages through which a scale passes without changing the block's output.

    Each sequence of the batch except the first tests one passage: it multiplies the output of the maker by factors, and
    divides the input of the takers by them.
    """
    sound: list[_Passage] = []
    for start in range(0, len(passages), replay.batch - 1):
        tried = passages[start : start + replay.batch - 1]
        returned: dict[str, Tensor] = {}
        received: dict[str, Tensor] = {}
        for sequence, passage in enumerate(tried, start=1):
            rows = torch.tensor(passage.rows, device=replay.device)
            channels = _channels(replay.block.get_submodule(passage.maker))
            factors = torch.linspace(-1.0, 1.0, channels, dtype=torch.float64, device=replay.device).exp2()
            read = torch.zeros(channels, dtype=torch.bool, device=replay.device)
            read[rows] = True
            returned.setdefault(passage.maker, replay.ones(channels))[sequence] *= torch.where(read, factors, 1.0)
            for taker in passage.takers:
                received.setdefault(taker, replay.ones(len(rows)))[sequence] /= factors[rows]
        output = replay.run(scale_inputs=received, scale_outputs=returned).output
        change = (output - output[:1]).abs().flatten(1).amax(dim=1) / output[0].abs().max()
        sound += [p for p, changed in zip(tried, change[1:].tolist(), strict=False) if changed <= _TOLERANCE]
    return sound


def _channels(maker: nn.Module) -> int:
    """Number of output channels of a norm or a linear."""
    return out_features(maker) if isinstance(maker, Linear) else maker.get_parameter("weight").numel()


def _renamed(found: _BlockRelations, block: str) -> _BlockRelations:
    """The same relations with full module names."""

    def full(name: str) -> str:
        return f"{block}.{name}"

    return _BlockRelations(
        tuple(map(full, found.linears)),
        tuple(InputGroup(tuple(map(full, g.linears)), g.norm and full(g.norm)) for g in found.groups),
        tuple(ChannelLink(full(k.source), full(k.target), k.source_rows) for k in found.links),
    )
