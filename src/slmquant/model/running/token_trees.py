"""Runs inputs with common prefixes through a model as one tree, so that shared tokens are computed once.

The options of a question share its text, and all questions of a subject share the examples before them. A tree contains
each shared token once; a token attends only to its ancestors, and its position is its depth, so that every token sees
exactly what it would see if its input were run separately. transformers models accept such a mask. Models that depend
on the order in memory instead (recurrent states, convolutions, ALiBi, cache groups of tokens) cannot be run this way:
`longest_shared` tests it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from slmquant.boundary import is_memory
from slmquant.model.compatibility.cache_names import cache_argument
from slmquant.model.computing.kv_cache import depends_on_position
from slmquant.model.running.tree_attention import in_parts, parts_of

__all__ = ["Branch", "PackedBody", "Tokens", "Tree", "common_length", "lay_out", "longest_shared", "rounded"]

Tokens = tuple[int, ...]
"""Token ids of one input."""

_ROUNDED = 16
_SMALL = 64
"""The size of a tree with fewer nodes is not rounded."""
_TRIED_TOKENS = 64
_DISTURBANCE = 1e-6
"""Relative error of a float32 sum in another order."""
_TOLERANCE = 1e-4
"""Relative tolerance, raised if the model amplifies the disturbance; a wrong mask causes errors of 0.1 and more."""


@dataclass(frozen=True)
class Branch:
    """Consecutive nodes of a tree, each the child of the one before.

    Attributes:
        start: The first node.
        stop: One past the last node.
        ancestors: Their ancestors, from the root down; empty for a root.
    """

    start: int
    stop: int
    ancestors: tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """Several inputs as one or more trees.

    Attributes:
        tokens: Token of each node.
        depths: Position of each node in its inputs, including a cached prefix.
        branches: All nodes, in order, as branches.
        paths: For each input, in the order given, its nodes after the cached prefix.
    """

    tokens: Tokens
    depths: tuple[int, ...]
    branches: tuple[Branch, ...]
    paths: tuple[tuple[int, ...], ...]


def common_length(first: Tokens, second: Tokens) -> int:
    """Length of the common prefix of two inputs."""
    shorter = min(len(first), len(second))
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), shorter)


def lay_out(inputs: Sequence[Tokens], skip: int = 0) -> Tree:
    """Arrange inputs as a tree.

    Args:
        inputs: At least one input; sorted, so that inputs with common prefixes are adjacent.
        skip: Length of the common prefix that is in the cache and not in the tree.
    """
    tokens: list[int] = []
    depths: list[int] = []
    branches: list[Branch] = []
    paths: list[tuple[int, ...]] = []
    path: tuple[int, ...] = ()
    previous: Tokens = inputs[0][:skip]
    for current in inputs:
        shared = common_length(previous, current)
        start, stop = len(tokens), len(tokens) + len(current) - shared
        path = path[: shared - skip]
        if stop > start:
            branches.append(Branch(start, stop, path))
            tokens += current[shared:]
            depths += range(shared, len(current))
        path += tuple(range(start, stop))
        paths.append(path)
        previous = current
    return Tree(tuple(tokens), tuple(depths), tuple(branches), tuple(paths))


def rounded(nodes: int) -> int:
    """Number of nodes, padding included, with which a tree of `nodes` nodes is run.

    oneDNN generates and keeps code for every new shape of a product: hundreds of batches of different lengths cost
    hundreds of megabytes.
    """
    return nodes if nodes < _SMALL else _ROUNDED * ceil(nodes / _ROUNDED)


class PackedBody:
    """The body of a causal language model, run on trees.

    Args:
        model: A model for which `longest_shared` is not 0; it is used, not copied.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache: DynamicCache | None = None

    @contextmanager
    def after(self, prefix: Tokens) -> Iterator[None]:
        """Within this context all trees continue `prefix`, whose keys and values are computed once."""
        self._cache = DynamicCache()
        try:
            self._run(torch.tensor([prefix]), torch.arange(len(prefix))[None], None)
            yield
        finally:
            self._cache = None

    @torch.inference_mode()
    def hidden(self, trees: Sequence[Tree]) -> Float[Tensor, "trees nodes hidden"]:
        """Final hidden states of all nodes; smaller trees are padded, and states of padding are meaningless."""
        cached = self._cached_tokens()
        longest = rounded(max(len(tree.tokens) for tree in trees))
        ids = torch.zeros(len(trees), longest, dtype=torch.long)
        positions = torch.zeros(len(trees), longest, dtype=torch.long)
        visible = torch.zeros(len(trees), longest, cached + longest, dtype=torch.bool)
        visible[:, :, :cached] = True
        visible[:, :, cached:] = torch.eye(longest, dtype=torch.bool)  # padding sees itself: an empty row gives NaN
        for row, tree in enumerate(trees):
            ids[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
            positions[row, : len(tree.tokens)] = torch.tensor(tree.depths)
            for branch in tree.branches:
                size = branch.stop - branch.start
                inside = visible[row, branch.start : branch.stop, cached:]
                inside[:, list(branch.ancestors)] = True
                inside[:, branch.start : branch.stop] = torch.ones(size, size, dtype=torch.bool).tril_()
        starts = [branch.start for branch in trees[0].branches] if cached and len(trees) == 1 else []
        return self._run(ids, positions, visible, starts)

    def _cached_tokens(self) -> int:
        return 0 if self._cache is None else self._cache.get_seq_length()

    @torch.inference_mode()
    def _run(self, ids: Tensor, positions: Tensor, visible: Tensor | None, starts: Sequence[int] = ()) -> Tensor:
        """Run the body; if `starts` of a tree's branches are given, attention is computed in parts.

        New keys and values stay in the cache only if `visible` is None.
        """
        device = self._model.device
        mask = None
        attention: AbstractContextManager[None] = nullcontext()
        if visible is not None:
            # Additive, as eager attention requires; sdpa accepts it too.
            nothing = torch.finfo(torch.float32).min
            mask = torch.zeros(visible.shape).masked_fill_(~visible, nothing)[:, None].to(device)
            if starts:
                attention = in_parts(self._model, parts_of(starts, mask))
        with attention:
            body = self._model.get_decoder()
            out = body(
                input_ids=ids.to(device),
                attention_mask=mask,
                position_ids=positions.to(device),
                use_cache=self._cache is not None,
                **({} if self._cache is None else cache_argument(body, self._cache)),
            )
        if self._cache is not None and visible is not None:
            self._cache.crop(-ids.shape[1])
        return cast(Tensor, out[0])


def longest_shared(model: PreTrainedModel) -> int | None:
    """Largest length of inputs that can be run as trees; None for no limit, 0 if `model` does not support trees.

    The limit is the sliding window: a tree's mask lets a token see all of its ancestors, which is only correct for
    inputs within the window.
    """
    if depends_on_position(model):
        return 0
    window = getattr(model.config.get_text_config(), "sliding_window", None) or None  # some configurations say 0
    if window is not None and window < _TRIED_TOKENS:
        return 0
    return window if _shares_prefixes(model) else 0


def _shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether `model` computes the same states for inputs in a tree as for inputs run one by one.

    Tested on three inputs of random tokens, as a tree and as a tree after a cached prefix. Rounding may differ, because
    sums over keys run in another order; products in bfloat16 or rounded activations amplify that a thousandfold. So the
    effect of a change of the embeddings in the sixth digit is measured, and a few times that is allowed.
    """
    vocab = int(model.config.get_text_config().vocab_size)
    drawn = torch.Generator().manual_seed(0)
    first, second, third = torch.randint(vocab, (3, _TRIED_TOKENS), generator=drawn).tolist()
    inputs = sorted([tuple(first), tuple(first[:24] + second[:33]), tuple(first[:9] + third[:34])])
    body = PackedBody(model)
    try:
        alone = [body._run(torch.tensor([tokens]), torch.arange(len(tokens))[None], None)[0] for tokens in inputs]
        with _disturbed(model, drawn):
            disturbed = body._run(torch.tensor([inputs[0]]), torch.arange(len(inputs[0]))[None], None)[0]
        together = _states(body, lay_out(inputs))
        with body.after(inputs[0][:9]):
            after = _states(body, lay_out(inputs, skip=9))
    except Exception as error:  # architectures that reject such a mask or cache raise various exceptions
        if is_memory(error):
            raise
        return False
    allowed = max(_TOLERANCE, 5 * _distance(disturbed, alone[0]))
    return all(
        _distance(found, states[-len(found) :]) <= allowed
        for kind in (together, after)
        for found, states in zip(kind, alone, strict=True)
    )


@contextmanager
def _disturbed(model: PreTrainedModel, generator: torch.Generator) -> Iterator[None]:
    """Within this context embeddings have a relative error of one in a million."""

    def disturb(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        noise = torch.randn(out.shape, generator=generator).to(out.device, out.dtype)
        return out * (1 + _DISTURBANCE * noise)

    hook = model.get_input_embeddings().register_forward_hook(disturb)
    try:
        yield
    finally:
        hook.remove()


def _states(body: PackedBody, tree: Tree) -> list[Tensor]:
    hidden = body.hidden([tree])[0]
    return [hidden[list(path)] for path in tree.paths]


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative distance; NaN (never within tolerance) if a state is not finite."""
    return float((found - expected).norm() / expected.norm())
