"""The structure of a model as data: groups of linears, links of channels, the residual stream.

`discovery` finds it, `rewriting` uses it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputGroup:
    """Linears that receive the same tensor.

    Attributes:
        linears: Their module names, in execution order.
        norm: The norm whose output feeds all of them *and nothing else*, so that its weight may absorb a scale per
            channel; None if there is none.
    """

    linears: tuple[str, ...]
    norm: str | None


@dataclass(frozen=True)
class ChannelLink:
    """Input channels of `target` follow output channels of `source`, linearly for positive factors.

    Attributes:
        source: Name of the linear whose output channels are followed.
        target: Name of the linear whose input channels follow.
        source_rows: For each input channel of the target, the output channel of the source that it follows. Every input
            channel is covered; with grouped-query attention several follow the same row.
    """

    source: str
    target: str
    source_rows: tuple[int, ...]


@dataclass(frozen=True)
class Relations:
    """The structure of a model, as needed by transforms. All names are full module names.

    Attributes:
        linears: Every linear that the blocks call, in execution order, without head and embeddings. A matrix that is
            not called as a module (the fused experts of a mixture) is not included.
        blocks: The decoder blocks, first to last.
        groups: Linears that receive the same tensor; every linear is in exactly one group.
        links: Pairs of linears whose channels follow each other.
        embedding: The token embedding.
        head: The module that computes logits; None if the model has none.
        tied: True if head and embedding are one parameter.
    """

    linears: tuple[str, ...]
    blocks: tuple[str, ...]
    groups: tuple[InputGroup, ...]
    links: tuple[ChannelLink, ...]
    embedding: str
    head: str | None
    tied: bool

    @property
    def head_weight(self) -> str | None:
        """Name under which the head's weight is stored: the embedding if they are tied."""
        return self.embedding if self.tied else self.head


@dataclass(frozen=True)
class StreamNorm:
    """A norm of the residual stream and the linears that read it; nothing else reads it.

    Attributes:
        name: The norm; it may have a gain and a bias, or neither.
        readers: The linears.
    """

    name: str
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    """Heads between two linears; channels within a head may be mixed.

    Attributes:
        source: The linear that computes the heads.
        target: The linear that reads the heads.
        size: Channels of a head.
        starts: For each head of the target's input, the first row of the source that it comes from; equal for heads
            that share keys and values.
    """

    source: str
    target: str
    size: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class BlockStream:
    """Readers and writers of the residual stream in one block.

    Attributes:
        block: Name of the block.
        norms: The norms that read the stream, with their linears.
        writers: The linears whose outputs are added to the stream, possibly times a constant.
        heads: Heads that may be rotated.
    """

    block: str
    norms: tuple[StreamNorm, ...]
    writers: tuple[str, ...]
    heads: tuple[Heads, ...]


@dataclass(frozen=True)
class ResidualStream:
    """The residual stream of a model, if it can be rotated.

    Attributes:
        width: Number of channels.
        subtracts_mean: Whether some norm subtracts the mean, so that only mean-preserving rotations are allowed.
        blocks: Readers and writers of each block.
    """

    width: int
    subtracts_mean: bool
    blocks: tuple[BlockStream, ...]
